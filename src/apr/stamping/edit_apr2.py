"""Stamping an APR v2 file: typed keys, and the embedded Hugging Face config kept in agreement with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apr.errors import UsageError
from apr.formats.apr2.edit import plan_metadata_patch
from apr.formats.apr2.layout import Flags
from apr.formats.apr2.metadata import CONFIG_KEY, HF_NAMES, TYPED_KEYS, spelling_of, typed_problem
from apr.formats.apr2.metadata import CONFIG_KEYS as TYPED_CONFIG_KEYS
from apr.formats.apr2.metadata_text import encode_metadata
from apr.formats.apr2.read import stamps_in
from apr.formats.apr2.tokenizer import FILES_KEY, TENSOR_PREFIX, tokenizer_metadata, tokenizer_tensors
from apr.formats.base import Checkpoint
from apr.formats.json_text import without_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_METADATA_KEY
from apr.identity.claim import read_stamp
from apr.stamping.changes import OPTIONS, StampChanges
from apr.stamping.config_edit import ROPE_BASE, ROPE_OBJECT, edit_config, is_inside
from apr.stamping.edit import CONFIG_KEYS, METADATA_KEYS, Edit, Editor, restamped, stamps_given, tokenizer_change
from apr.stamping.history import change_of
from apr.storage.patches import Change as DirectoryChange

if TYPE_CHECKING:
    from apr.formats.writing import TensorToWrite

METADATA_PLACE = "APR metadata"
FLAGS_OFFSET_BYTES = 6
TOKENIZER_KEY_PREFIX = "tokenizer."


def plan(checkpoint: Checkpoint, changes: StampChanges, tokenizer_files: Mapping[str, bytes] | None) -> Edit:
    """The edit of an `.apr`; raises UsageError when a setting of a typed key has another type."""
    # The typed key and the value inside the embedded config are one fact.
    one_fact = {f"{ROPE_OBJECT}.{ROPE_BASE}": ROPE_BASE}
    changes = changes._replace(settings={one_fact.get(key, key): value for key, value in changes.settings.items()})
    _check_typed(checkpoint, changes.settings)
    metadata = dict(checkpoint.metadata)
    config = metadata.get(CONFIG_KEY)
    inside = {key for key in changes.settings if isinstance(config, Mapping) and is_inside(config, key)}
    settings = {key: value for key, value in changes.settings.items() if key not in inside}
    wanted = {**changes.identity, **changes.provenance, **settings, **_family_label(metadata, changes)}
    found = [change_of("metadata", metadata, key, value) for key, value in wanted.items()]
    metadata |= wanted
    stamps = restamped(checkpoint.stamps, stamps_given(changes, METADATA_KEYS), METADATA_PLACE)
    notes: tuple[str, ...] = ()
    if isinstance(config, Mapping):
        settings = _settings_of_config(config, changes.settings)
        edited = edit_config(config, CONFIG_KEY, changes, settings, checkpoint.tensors)
        metadata[CONFIG_KEY] = config = edited.config
        found, notes = [*found, *edited.changes], edited.notes
        stamps = restamped(stamps, stamps_given(changes, CONFIG_KEYS), f"{METADATA_PLACE}: {CONFIG_KEY}")
    if tokenizer_files is not None:
        found.append(tokenizer_change(checkpoint, tokenizer_files))
        metadata = {key: value for key, value in metadata.items() if not _is_tokenizer_key(key)}
        metadata |= tokenizer_metadata(tokenizer_files)
    typed = {HF_NAMES.get(key, key): value for key, value in changes.settings.items() if key in TYPED_CONFIG_KEYS}
    after = replace(
        checkpoint,
        metadata=MappingProxyType(metadata),
        stamps=stamps,
        config=without_tagged_floats(config) if isinstance(config, Mapping) else None,
        typed=MappingProxyType({**checkpoint.typed, **typed}),
    )
    return Edit(checkpoint, after, tuple(change for change in found if change is not None), tokenizer_files, notes)


def record(edit: Edit, entry: Mapping[str, Any]) -> Edit:
    """The edit with `entry` as the newest of the history; every other record is kept as it is, known to us or not."""
    metadata = dict(edit.after.metadata)
    document = dict(metadata.get(RECORDED_METADATA_KEY) or NOTHING_RECORDED.to_json())
    document["history"] = [*(document.get("history") or ()), dict(entry)]
    metadata[RECORDED_METADATA_KEY] = document
    return edit._replace(after=replace(edit.after, metadata=MappingProxyType(metadata)))


def history(checkpoint: Checkpoint) -> list[Mapping[str, Any]]:
    """The entries of the history in the file, oldest first."""
    return list(checkpoint.recorded.history)


def places(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a stamp can change, by the place its history names."""
    config = checkpoint.metadata.get(CONFIG_KEY)
    embedded = {CONFIG_KEY: dict(config)} if isinstance(config, Mapping) else {}
    return {"metadata": dict(checkpoint.metadata), **embedded}


def restored(checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """`checkpoint` with `places` as they were."""
    metadata = dict(places["metadata"])
    config = places.get(CONFIG_KEY)
    if config is not None:
        metadata[CONFIG_KEY] = config
    typed = {HF_NAMES.get(key, key): metadata[key] for key in TYPED_CONFIG_KEYS if metadata.get(key) is not None}
    plain = without_tagged_floats(config) if config is not None else None
    return replace(
        checkpoint,
        metadata=MappingProxyType(metadata),
        stamps=stamps_in(metadata, plain),
        config=plain,
        typed=MappingProxyType(typed),
    )


def write(edit: Edit, path: Path) -> None:
    """The stamped file at `path`: header flags kept (row-major and HAS_VOCAB added where true), tensors streamed."""
    from apr.convert.metering import UNMETERED
    from apr.formats.apr2.write import write_apr2
    from apr.formats.writing import STAMP_SLACK_BYTES

    copy_of = (edit.meter or UNMETERED).copy_of
    write_apr2(
        path,
        metadata=edit.after.metadata,
        tensors=[*map(copy_of, edit.before.tensors.values()), *_embedded_files(edit)],
        flags=_flags(edit),
        spelling=spelling_of(edit.before.metadata),
        metadata_slack_bytes=STAMP_SLACK_BYTES,
    )


def change(edit: Edit) -> DirectoryChange | None:
    """What the edit changes in the file; None when tokenizer files come or go that stand as tensors."""
    metadata = encode_metadata(edit.after.metadata, spelling_of(edit.before.metadata))
    if edit.tokenizer_files is not None:
        texts = edit.before.metadata.get(FILES_KEY) or {}
        if tokenizer_tensors(edit.tokenizer_files) or edit.before.tokenizer_files().keys() - texts.keys():
            return None
    patch = plan_metadata_patch(edit.before, metadata, _flags(edit))
    return None if patch is None else DirectoryChange((patch,))


def header_flags(checkpoint: Checkpoint) -> Flags:
    """The flag bits in the header of an opened `.apr`."""
    return Flags(int.from_bytes(checkpoint.files[0].read_at(FLAGS_OFFSET_BYTES, 2, "the header flags"), "little"))


def _flags(edit: Edit) -> Flags:
    flags = header_flags(edit.before) | Flags.LAYOUT_ROW_MAJOR
    return flags | Flags.HAS_VOCAB if edit.tokenizer_files is not None else flags


def _embedded_files(edit: Edit) -> list[TensorToWrite]:
    """Tokenizer files that stand as U8 tensors beside the model's own."""
    from apr.formats.dtypes import DType
    from apr.formats.writing import tensor_from_bytes

    if edit.tokenizer_files is not None:
        return tokenizer_tensors(edit.tokenizer_files)
    texts = edit.before.metadata.get(FILES_KEY) or {}
    return [
        tensor_from_bytes(TENSOR_PREFIX + name, DType.U8, (len(data),), data)
        for name, data in edit.before.tokenizer_files().items()
        if name not in texts
    ]


def _is_tokenizer_key(key: str) -> bool:
    return key == FILES_KEY or key.startswith(TOKENIZER_KEY_PREFIX)


def _family_label(metadata: Mapping[str, Any], changes: StampChanges) -> dict[str, str]:
    """Upstream's free-text key `model_type`, where it names a known family that the new stamps contradict."""
    family = changes.architecture or changes.hf_model_type
    label = metadata.get("model_type")
    if family is None or not isinstance(label, str):
        return {}
    named = {architecture.model_type for architecture in read_stamp(label)}
    return {"model_type": family} if named and family not in named else {}


def _settings_of_config(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that concern the embedded config: typed keys under their Hugging Face name, and its own keys."""
    named = {HF_NAMES.get(key, key): value for key, value in settings.items()}
    typed = {HF_NAMES.get(key, key) for key in TYPED_CONFIG_KEYS}
    return {name: value for name, value in named.items() if name in config or name in typed or is_inside(config, name)}


def _check_typed(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if _is_tokenizer_key(key):
            raise UsageError(
                "this key cannot be set with --set",
                where=f"--set {key}",
                found=key,
                remedy=f"use {OPTIONS['tokenizer']} DIR for the tokenizer of an .apr",
            )
        problem = typed_problem(key, value) if key in TYPED_KEYS else None
        if problem is not None:
            raise UsageError(
                "a setting has the wrong type",
                where=f"{checkpoint.path}: --set {key}",
                expected=TYPED_KEYS[key].value,
                found=problem,
            )


EDITOR = Editor(plan, record, write, change, history, places, restored)
