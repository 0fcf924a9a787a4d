"""Stamping a GGUF file: keys and values of its header, and the architecture with every key below its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.errors import DamagedFileError, UsageError
from apr.formats.base import Checkpoint, Stamp
from apr.formats.gguf.edit import Rename, keys_below, plan_metadata_patch, value_as_read
from apr.formats.gguf.layout import (
    ALIGNMENT_KEY,
    ARCHITECTURE_KEY,
    HISTORY_KEY,
    LONGEST_KEY_BYTES,
    OWN_PREFIX,
    SPLIT_PREFIX,
)
from apr.formats.gguf.read import Metadata, parsed_history, stamps_in
from apr.formats.gguf.settings import PROVENANCE_KEYS, typed_settings
from apr.formats.gguf.values import Array
from apr.formats.json_text import with_tagged_floats, without_tagged_floats
from apr.stamping.changes import OPTIONS, StampChanges
from apr.stamping.edit import METADATA_KEYS, Edit, Editor, refuse_fields
from apr.stamping.history import Change, change_of
from apr.storage.patches import Change as DirectoryChange

PLACE = "metadata"
KEYS_PLACE, PREFIX = "metadata keys", "below"
KEY_FORM = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
INSTEAD_OF_SET = {
    ARCHITECTURE_KEY: f"use {OPTIONS['architecture']}, which renames the keys below it too",
    **{key: f"use {OPTIONS[name]}" for name, key in PROVENANCE_KEYS.items()},
    ALIGNMENT_KEY: "convert the model again with that alignment: the data of all tensors would have to move",
}
"""Keys that `--set` may not touch, with what to do about it."""


def plan(checkpoint: Checkpoint, changes: StampChanges, tokenizer_files: Mapping[str, bytes] | None) -> Edit:
    """The edit of a GGUF file. Its one identity key is the architecture; the others given are only checked."""
    reason, remedy = "a GGUF file has its tokenizer in keys of its own", "set its keys: --set tokenizer.ggml.KEY=JSON"
    refuse_fields(checkpoint, changes, ("tokenizer",), reason, remedy)
    if changes.architecture is None:
        reason = f"GGUF has one key for it, {ARCHITECTURE_KEY}; {OPTIONS['architecture']} names the same"
        remedy = f"add {OPTIONS['architecture']} FAMILY"
        refuse_fields(checkpoint, changes, ("hf_architecture", "hf_model_type"), reason, remedy)
    _check_settings(checkpoint, changes.settings)
    before = _metadata_of(checkpoint)
    new: dict[str, Any] = {PROVENANCE_KEYS[name]: value for name, value in changes.provenance.items()}
    renames: list[Change] = []
    metadata, names = dict(before), {key: key for key in before}
    if changes.architecture is not None:
        new[ARCHITECTURE_KEY] = changes.architecture
        rename = _rename(checkpoint, new[ARCHITECTURE_KEY], changes.settings)
        if rename is not None:
            renames.append(Change(f"{KEYS_PLACE}: {PREFIX}", rename.old, rename.new))
            metadata = {rename(key): value for key, value in before.items()}
            names = {rename(key): key for key in before}
    new |= {key: value_as_read(before, names.get(key, key), value) for key, value in changes.settings.items()}
    old = {key: _plain(metadata[key]) for key in new if key in metadata}
    found = [*(change_of(PLACE, old, key, value) for key, value in new.items()), *renames]
    notes: tuple[str, ...] = ()
    asked = {name: changes.identity[name] for name in ("hf_architecture", "hf_model_type") if name in changes.identity}
    if asked:
        given = " and ".join(OPTIONS[name] for name in asked)
        notes += (f"{given}: checked and not written, as GGUF has one key for it, {ARCHITECTURE_KEY}",)
    return Edit(
        checkpoint,
        _with(checkpoint, {**metadata, **new}),
        tuple(change for change in found if change is not None),
        notes=notes,
        asked=tuple(Stamp(METADATA_KEYS[name], value, OPTIONS[name]) for name, value in asked.items()),
    )


def record(edit: Edit, entry: Mapping[str, Any]) -> Edit:
    """The edit with `entry` as the newest of the history, which stands in `apr.history` as JSON text."""
    entries = with_tagged_floats([*history(edit.before), entry])
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    metadata = {**edit.after.metadata, HISTORY_KEY: text}
    return edit._replace(after=replace(edit.after, metadata=MappingProxyType(metadata)))


def history(checkpoint: Checkpoint) -> list[Mapping[str, Any]]:
    """The entries of the history in the file, oldest first."""
    text = checkpoint.metadata.get(HISTORY_KEY)
    entries = [] if text is None else parsed_history(text)
    if entries is None:
        raise DamagedFileError(
            "the history of stamps cannot be read, and would be lost",
            where=f"{checkpoint.path}: {HISTORY_KEY}",
            expected="a JSON list of objects",
            found=f"{text!r:.80}",
        )
    return list(entries)


def places(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a stamp can change, by the place its history names; one is the name that keys stand below."""
    return {PLACE: dict(checkpoint.metadata), KEYS_PLACE: _prefix(checkpoint.metadata)}


def restored(checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """`checkpoint` with `places` as they were, the names of keys too."""
    metadata = {key: without_tagged_floats(value) for key, value in places[PLACE].items()}
    now, then = _prefix(checkpoint.metadata), places[KEYS_PLACE]
    if now != then:
        rename = Rename(now[PREFIX], then[PREFIX])
        metadata = {rename(key): value for key, value in metadata.items()}
    return _with(checkpoint, metadata)


def write(edit: Edit, path: Path) -> None:
    """The stamped file at `path`, its blocks shared with the original or copied by the kernel."""
    from apr.storage.atomic import atomic_file
    from apr.storage.copying import copy_patched

    file = edit.before.files[0]
    with atomic_file(path) as copy:
        progress = None if edit.meter is None else edit.meter.add
        copy_patched(file.fileno(), copy.fileno(), change(edit).patches[0], progress)


def change(edit: Edit) -> DirectoryChange:
    """What the edit changes in the file: its header."""
    return DirectoryChange((plan_metadata_patch(edit.before.files[0], _metadata_of(edit.before), edit.after.metadata),))


def _with(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> Checkpoint:
    return replace(
        checkpoint,
        metadata=MappingProxyType(dict(metadata)),
        stamps=stamps_in(metadata),
        typed=MappingProxyType(typed_settings(metadata)),
    )


def _metadata_of(checkpoint: Checkpoint) -> Metadata:
    assert isinstance(checkpoint.metadata, Metadata)
    return checkpoint.metadata


def _prefix(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The architecture under `PREFIX` when keys stand below its name."""
    architecture = metadata.get(ARCHITECTURE_KEY)
    is_used = isinstance(architecture, str) and keys_below(metadata, architecture)
    return {PREFIX: architecture} if isinstance(architecture, str) and is_used else {}


def _rename(checkpoint: Checkpoint, new: str, settings: Mapping[str, Any]) -> Rename | None:
    """The rename of keys that goes with the architecture `new`; None where none stands below the old name."""
    old = _prefix(checkpoint.metadata).get(PREFIX, new)
    if old == new:
        return None
    in_the_way = [*keys_below(checkpoint.metadata, new), *(f"--set {key}" for key in keys_below(settings, old))]
    if not in_the_way:
        return Rename(old, new)
    raise UsageError(
        f"the keys below {old} are renamed with the architecture, and would meet others",
        where=str(checkpoint.path),
        expected=f"no key below {new} in the file, and no setting below {old}",
        found=", ".join(in_the_way),
        remedy=f"name the keys of --set as they will be, {new}.context_length; a file with keys below both names "
        "has to be converted again",
    )


def _check_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    for key in settings:
        remedy = INSTEAD_OF_SET.get(key)
        if remedy is None and key.startswith(OWN_PREFIX):
            remedy = "the records of apr are not edited by hand"
        if remedy is None and key.startswith(SPLIT_PREFIX):
            remedy = "leave it to llama-gguf-split, which writes what part of a model a file is as it makes or joins it"
        if remedy is None and len(key.encode()) > LONGEST_KEY_BYTES:
            remedy = f"give a key of at most {LONGEST_KEY_BYTES} bytes; readers take no longer one"
        if remedy is None and not KEY_FORM.fullmatch(key) and key not in checkpoint.metadata:
            remedy = "name the key as GGUF names keys: words in lower case, underscores, and points between them"
        if remedy is not None:
            shown = f"{key:.100}"
            raise UsageError("this key cannot be set with --set", where=f"--set {shown}", found=shown, remedy=remedy)


def _plain(value: Any) -> Any:
    return value.values() if isinstance(value, Array) else value


EDITOR = Editor(plan, record, write, change, history, places, restored)
