"""Stamping a single safetensors file: texts in its `__metadata__`; everything else of the file is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.errors import DamagedFileError
from apr.formats.base import Checkpoint, StampKey
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_METADATA_KEY
from apr.formats.safetensors.edit import plan_metadata_patch
from apr.formats.safetensors.header import METADATA_KEY
from apr.formats.safetensors.read import stamps_in
from apr.stamping.changes import StampChanges
from apr.stamping.edit import METADATA_KEYS, Edit, Editor, refuse_fields, restamped, stamps_given
from apr.stamping.history import change_of
from apr.storage.patches import Change as DirectoryChange

MODEL_TYPE_KEY = "model_type"


def plan(checkpoint: Checkpoint, changes: StampChanges, tokenizer_files: Mapping[str, bytes] | None) -> Edit:
    """The edit of a `.safetensors` file; a setting that is no text is stored as its JSON."""
    refuse_fields(checkpoint, changes, ("tokenizer",), "a safetensors file has no place for tokenizer files")
    metadata = dict(checkpoint.metadata)
    wanted = {**changes.identity, **changes.provenance}
    wanted |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.settings.items()}
    given = stamps_given(changes, METADATA_KEYS)
    if changes.hf_model_type is not None and MODEL_TYPE_KEY in metadata:
        wanted[MODEL_TYPE_KEY] = changes.hf_model_type
        given[StampKey.CONFIG_MODEL_TYPE] = changes.hf_model_type
    found = [change_of(METADATA_KEY, metadata, key, value) for key, value in wanted.items()]
    after = replace(
        checkpoint,
        metadata=MappingProxyType({**metadata, **wanted}),
        stamps=restamped(checkpoint.stamps, given, f"safetensors {METADATA_KEY}"),
    )
    return Edit(checkpoint, after, tuple(change for change in found if change is not None), tokenizer_files)


def record(edit: Edit, entry: Mapping[str, Any]) -> Edit:
    """The edit with `entry` as the newest of the history, which stands in the metadata as JSON text."""
    metadata = dict(edit.after.metadata)
    document = _recorded(edit.before)
    document["history"] = [*(document.get("history") or ()), dict(entry)]
    metadata[RECORDED_METADATA_KEY] = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return edit._replace(after=replace(edit.after, metadata=MappingProxyType(metadata)))


def history(checkpoint: Checkpoint) -> list[Mapping[str, Any]]:
    """The entries of the history in the file, oldest first."""
    return list(_recorded(checkpoint).get("history") or ())


def places(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a stamp can change, by the place its history names."""
    return {METADATA_KEY: dict(checkpoint.metadata)}


def restored(checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """`checkpoint` with `places` as they were."""
    metadata = dict(places[METADATA_KEY])
    return replace(checkpoint, metadata=MappingProxyType(metadata), stamps=stamps_in(metadata))


def write(edit: Edit, path: Path) -> None:
    """The stamped file at `path`, tensors streamed."""
    from apr.convert.metering import UNMETERED
    from apr.formats.safetensors.write import write_safetensors
    from apr.formats.writing import STAMP_SLACK_BYTES

    tensors = [(edit.meter or UNMETERED).copy_of(entry) for entry in edit.before.tensors.values()]
    write_safetensors(path, tensors=tensors, metadata=edit.after.metadata, metadata_slack_bytes=STAMP_SLACK_BYTES)


def change(edit: Edit) -> DirectoryChange:
    """What the edit changes in the file: its header."""
    return DirectoryChange((plan_metadata_patch(edit.before.files[0], edit.after.metadata),))


def _recorded(checkpoint: Checkpoint) -> dict[str, Any]:
    text = checkpoint.metadata.get(RECORDED_METADATA_KEY)
    if text is None:
        return NOTHING_RECORDED.to_json()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("history", []), list):
        raise DamagedFileError(
            "the history of stamps cannot be read, and would be lost",
            where=f"{checkpoint.path}: {METADATA_KEY}: {RECORDED_METADATA_KEY}",
            expected="a JSON object with a list `history`",
            found=f"{text!r:.80}",
        )
    return document


EDITOR = Editor(plan, record, write, change, history, places, restored)
