"""Stamping a Hugging Face directory: `config.json` says what it is, `apr.json` keeps the history; shards stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.convert.metering import UNMETERED
from apr.errors import DamagedFileError, shell_word
from apr.formats.base import Checkpoint, Stamp, StampKey
from apr.formats.hf.read import CONFIG_FILE_NAME, directory_stamps
from apr.formats.json_text import read_object, with_tagged_floats, without_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_FILE_NAME
from apr.formats.safetensors.edit import plan_metadata_patch
from apr.formats.safetensors.header import METADATA_KEY
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES
from apr.stamping.changes import OPTIONS, StampChanges
from apr.stamping.config_edit import edit_config
from apr.stamping.edit import Edit, Editor, refuse_fields, tokenizer_change
from apr.stamping.history import change_of
from apr.stamping.signatures import DIRECTORY_SIGNATURE_NAME
from apr.storage.atomic import atomic_directory
from apr.storage.copying import copy_file
from apr.storage.inplace import content_of
from apr.storage.patches import Change as DirectoryChange
from apr.storage.patches import Replacement

LONGEST_FILE_BYTES = 64 << 20
PROVENANCE_PLACE = f"{RECORDED_FILE_NAME}: provenance"


def plan(checkpoint: Checkpoint, changes: StampChanges, tokenizer_files: Mapping[str, bytes] | None) -> Edit:
    """The edit of a directory; `architecture` alone is refused, since it has no key of that name."""
    if changes.hf_architecture is None and changes.hf_model_type is None:
        reason = f"{CONFIG_FILE_NAME} has no such key; --hf-architecture and --hf-model-type name the same"
        refuse_fields(checkpoint, changes, ("architecture",), reason)
    config = read_object(checkpoint.path / CONFIG_FILE_NAME, LONGEST_FILE_BYTES)
    edited = edit_config(config, CONFIG_FILE_NAME, changes, changes.settings, checkpoint.tensors)
    config = dict(edited.config)
    document = _read_record(checkpoint.path)
    provenance = document.get("provenance") or {}
    found = [*edited.changes, *(change_of(PROVENANCE_PLACE, provenance, *each) for each in changes.provenance.items())]
    if tokenizer_files is not None:
        found.append(tokenizer_change(checkpoint, tokenizer_files))
    document["provenance"] = {**provenance, **changes.provenance}
    texts = {name: dict(each) for name, each in checkpoint.weight_metadata.items()}
    for name, each in texts.items():
        new = {key: value for key, value in (changes.identity | changes.provenance).items() if key in each}
        if changes.hf_model_type is not None and "model_type" in each:
            new["model_type"] = changes.hf_model_type
        found += [change_of(f"{name} {METADATA_KEY}", each, key, value) for key, value in new.items()]
        each |= new
    after = _with(checkpoint, config, document, texts)
    kept = tuple(change for change in found if change is not None)
    notes = edited.notes
    asked: tuple[Stamp, ...] = ()
    if changes.architecture is not None:
        asked = (Stamp(StampKey.APR_ARCHITECTURE, changes.architecture, OPTIONS["architecture"]),)
        notes += (f"{OPTIONS['architecture']} was checked and not written: {CONFIG_FILE_NAME} has no such key",)
    return Edit(checkpoint, after, kept, tokenizer_files, notes, asked=asked)


def _with(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    document: Mapping[str, Any],
    texts: Mapping[str, Mapping[str, str]],
) -> Checkpoint:
    """`checkpoint` with another config, record and `__metadata__` of its weight files."""
    return replace(
        checkpoint,
        config=MappingProxyType(without_tagged_floats(config)),
        stamps=directory_stamps(config, texts),
        metadata=MappingProxyType({CONFIG_FILE_NAME: config, RECORDED_FILE_NAME: document}),
        weight_metadata=MappingProxyType(dict(texts)),
    )


def places(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a stamp can change, by the place its history names."""
    provenance = _read_record(checkpoint.path).get("provenance") or {}
    texts = {f"{name} {METADATA_KEY}": dict(each) for name, each in checkpoint.weight_metadata.items()}
    config = read_object(checkpoint.path / CONFIG_FILE_NAME, LONGEST_FILE_BYTES)
    return {CONFIG_FILE_NAME: config, PROVENANCE_PLACE: dict(provenance), **texts}


def restored(checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """`checkpoint` with `places` as they were."""
    document = _read_record(checkpoint.path) | {"provenance": dict(places[PROVENANCE_PLACE])}
    texts = {name: places[f"{name} {METADATA_KEY}"] for name in checkpoint.weight_metadata}
    return _with(checkpoint, places[CONFIG_FILE_NAME], document, texts)


def record(edit: Edit, entry: Mapping[str, Any]) -> Edit:
    """The edit with `entry` as the newest of the history in `apr.json`."""
    document = dict(edit.after.metadata[RECORDED_FILE_NAME])
    document["history"] = [*(document.get("history") or ()), dict(entry)]
    files = {**edit.after.metadata, RECORDED_FILE_NAME: document}
    return edit._replace(after=replace(edit.after, metadata=MappingProxyType(files)))


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / RECORDED_FILE_NAME
    return read_object(path, LONGEST_FILE_BYTES) if path.exists() else NOTHING_RECORDED.to_json()


def history(checkpoint: Checkpoint) -> list[Mapping[str, Any]]:
    """The entries of the history in `apr.json`, oldest first."""
    return list(_read_record(checkpoint.path).get("history") or ())


def write(edit: Edit, path: Path) -> None:
    """A copy of the directory at `path`, every file of it, with the stamped files in place of the old ones.

    Its signature is left out: it does not hold for the copy.
    """
    source = edit.before.path
    changed = _changed_files(edit)
    left_out = changed.keys() | _retired_files(edit) | {DIRECTORY_SIGNATURE_NAME}
    patches = {patch.name: patch for patch in change(edit).patches}
    meter = edit.meter or UNMETERED
    with atomic_directory(path) as copy:
        for entry in sorted(source.rglob("*")):
            name = entry.relative_to(source)
            if entry.is_dir() and not entry.is_symlink():
                (copy / name).mkdir(exist_ok=True)
            elif not entry.is_file():
                raise _no_file(entry)
            elif str(name) not in left_out:
                copy_file(entry, copy / name, patches.get(str(name)), meter.add)
        for file_name, data in changed.items():
            (copy / file_name).write_bytes(data)


def change(edit: Edit) -> DirectoryChange:
    """What the edit changes in the directory. A link gives way to a file; what it leads to is not touched."""
    directory = edit.before.path
    names = {**_changed_files(edit), **dict.fromkeys(_retired_files(edit))}
    replacements = (Replacement(name, content_of(directory / name), names[name]) for name in sorted(names))
    patches = tuple(
        plan_metadata_patch(file, edit.after.weight_metadata[file.path.name])
        for file in edit.before.files
        if edit.after.weight_metadata.get(file.path.name) != edit.before.weight_metadata.get(file.path.name)
    )
    return DirectoryChange(patches, tuple(each for each in replacements if each.old != each.new))


def _no_file(path: Path) -> DamagedFileError:
    is_link = path.is_symlink()
    return DamagedFileError(
        "the directory holds something that cannot be copied",
        where=str(path),
        expected="files and directories",
        found="a link that leads to no file" if is_link else "a device, socket or pipe",
        remedy=f"remove {shell_word(path)}, or stamp with --in-place",
    )


def _changed_files(edit: Edit) -> dict[str, bytes]:
    """The files of the directory that the edit writes anew, by name."""
    documents = {name: json_file(document) for name, document in edit.after.metadata.items()}
    return {**documents, **(edit.tokenizer_files or {})}


def _retired_files(edit: Edit) -> set[str]:
    """Files of the old tokenizer that the new one does not have: left behind they would mix two tokenizers."""
    if edit.tokenizer_files is None:
        return set()
    return {name for name in TOKENIZER_FILE_NAMES if (edit.before.path / name).exists()} - set(edit.tokenizer_files)


def json_file(document: Mapping[str, Any]) -> bytes:
    """`document` as transformers lays out its JSON files, in the order of its keys."""
    text = json.dumps(with_tagged_floats(document), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


EDITOR = Editor(plan, record, write, change, history, places, restored)
