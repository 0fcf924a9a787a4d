"""How `apr preflight` walks one path or address, and the document that says what came of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import UsageError

if TYPE_CHECKING:
    from apr.gates.road import Examination, RoadOptions
    from apr.library.network import Network
    from apr.storage.remote.traffic import Traffic


class Walk(NamedTuple):
    """How every path of one command is walked. base, is_fresh: of the PEFT adapters among them. network: where
    addresses are read, None when none is named."""

    options: RoadOptions
    is_deep: bool = False
    is_loaded: bool = False
    base: Path | None = None
    is_fresh: bool = False
    network: Network | None = None


def walked(source: Path | str, walk: Walk) -> tuple[Examination, Traffic | None]:
    """The examination of one path or address; of an address with what reading it cost."""
    from apr.formats.peft.read import is_adapter_directory

    if isinstance(source, Path) and is_adapter_directory(source):
        from apr.gates.adapters.road import AdapterOptions, examine_adapter

        adapter = AdapterOptions(base=walk.base, is_fresh=walk.is_fresh, fresh_words="--fresh-adapter")
        return examine_adapter(source, walk.options, adapter, partial(_walked_model, walk=walk)), None
    if walk.base is not None or walk.is_fresh:
        raise UsageError(
            "--base and --fresh-adapter are for PEFT adapters",
            where=str(source),
            expected="a directory with adapter_config.json and no model of its own",
            found="another path",
            remedy="leave them out",
        )
    if isinstance(source, str):
        assert walk.network is not None
        return walk.network.examine(source, walk.options)
    return _walked_model(source, walk.options, walk), None


def _walked_model(path: Path, options: RoadOptions, walk: Walk) -> Examination:
    from apr.gates.road import deepen, examine, try_load

    examination = examine(path, options)
    try:
        if walk.is_deep or walk.is_loaded:
            examination = deepen(examination)
        if walk.is_loaded:
            examination = try_load(examination)[1]
    finally:
        examination.close()
    return examination


def document_of(source: Path | str, examination: Examination, traffic: Traffic | None) -> dict[str, Any]:
    """The `apr.preflight/1` document of what was asked for as `source`; of an address with what it cost."""
    from apr.gates.document import preflight_document

    document = preflight_document(examination) | {"path": str(source)}
    if traffic is not None:
        document["remote"] = traffic.to_json()
    return document
