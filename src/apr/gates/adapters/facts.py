"""An adapter that is open: its config, its tensors by what they adapt, and the base model that it lies over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import AprError
from apr.formats.base import Checkpoint
from apr.formats.peft.read import ADAPTER_CONFIG_NAME, read_adapter_directory
from apr.gates.facts import InitFacts

PREFIX = "base_model.model."
"""What PEFT puts before every name when it saves an adapter (`PeftModel.save_pretrained`)."""

# A state dict saved as it is keeps the adapter's name in memory; PEFT loads that of `default` all the same.
_LORA_TENSOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB])(\.default)?(\.weight)?")
_PARTNERS = {
    "lora_A": "lora_B",
    "lora_B": "lora_A",
    "lora_embedding_A": "lora_embedding_B",
    "lora_embedding_B": "lora_embedding_A",
}

FindBase = Callable[[str], Path | None]
"""From what `adapter_config.json` calls the base model to where that lies on this machine; None when nowhere."""


class Adapter(NamedTuple):
    """An open adapter. config: `adapter_config.json`. base: local path of the model it was trained on, None when that
    is not here; base_note says why."""

    path: Path
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    base: Path | None
    base_note: str

    @property
    def is_lora(self) -> bool:
        return str(self.config.get("peft_type")).upper() == "LORA"


class LoraTensor(NamedTuple):
    """A LoRA tensor by what it adapts. module: the base module's name; part: `lora_A`, `lora_B`, ..."""

    name: str
    module: str
    part: str

    @property
    def is_output(self) -> bool:
        """Whether the adapter is an identity as long as this tensor is zero."""
        return self.part in {"lora_B", "lora_embedding_B"}


def open_adapter(path: Path, base: Path | None = None, find_base: FindBase | None = None) -> Adapter:
    """The adapter in `path`; the caller closes its checkpoint.

    base: the base model the caller names, None for the one that the config names, where that is a local path or
    `find_base` knows it. Raises NotFoundError or DamagedFileError when config or weights are missing or contradict
    themselves.
    """
    checkpoint = read_adapter_directory(path)
    config = checkpoint.config or {}
    if base is not None:
        return Adapter(path, config, checkpoint, base, f"the base model is {base}")
    try:
        found, note = _base_of(config, path, find_base)
    except BaseException:
        checkpoint.close()
        raise
    return Adapter(path, config, checkpoint, found, note)


def _base_of(config: Mapping[str, Any], path: Path, find_base: FindBase | None) -> tuple[Path | None, str]:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None, f"{ADAPTER_CONFIG_NAME} names no base model"
    try:
        for candidate in (Path(name), path / name):
            if candidate.exists():
                return candidate, f"the base model is {candidate}"
    except (OSError, ValueError):  # Too long for a path, or not one at all.
        return None, f"the base model {name!r:.80} is no path of this machine"
    found = None if find_base is None else find_base(name)
    if found is None:
        return None, f"the base model {name} is not on this machine"
    return (found, f"the base model is {found}") if found.exists() else (None, f"the base model {name} does not exist")


def adapter_facts(path: Path, adapter: Adapter | None, error: AprError | None) -> InitFacts:
    """The facts of an adapter for gates that look at one file: presence and integrity."""
    checkpoint = None if adapter is None else adapter.checkpoint
    note = "an adapter is planned against the model it lies over"
    return InitFacts(path=path, checkpoint=checkpoint, opening_error=error, plan_note=note)


def lora_tensors(names: Iterable[str]) -> list[LoraTensor]:
    """Those of `names` that are LoRA tensors, the prefix of PEFT taken off their modules."""
    found = []
    for name in names:
        match = _LORA_TENSOR.fullmatch(name)
        if match is not None:
            found.append(LoraTensor(name, match["module"].removeprefix(PREFIX), match["part"]))
    return found


def without_partner(tensors: Iterable[LoraTensor]) -> list[LoraTensor]:
    """LoRA tensors whose other half is not there."""
    held = {(each.module, each.part) for each in tensors}
    return [each for each in tensors if (each.module, _PARTNERS[each.part]) not in held]
