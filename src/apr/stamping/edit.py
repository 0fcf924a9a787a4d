"""What a stamp will make of one checkpoint, decided before anything is written; one editor for each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import UsageError, shell_word
from apr.formats.base import Checkpoint, Stamp, StampKey
from apr.stamping.changes import IDENTITY_FIELDS, OPTIONS, StampChanges
from apr.stamping.history import Change
from apr.storage.checksums import blake3_hex
from apr.storage.patches import Change as DirectoryChange

if TYPE_CHECKING:
    from apr.convert.metering import Meter

CONFIG_KEYS: Mapping[str, StampKey] = {
    "hf_architecture": StampKey.CONFIG_ARCHITECTURES,
    "hf_model_type": StampKey.CONFIG_MODEL_TYPE,
}
"""Field of StampChanges to the stamp of a Hugging Face config that says the same."""

METADATA_KEYS: Mapping[str, StampKey] = {
    "architecture": StampKey.APR_ARCHITECTURE,
    "hf_architecture": StampKey.APR_HF_ARCHITECTURE,
    "hf_model_type": StampKey.APR_HF_MODEL_TYPE,
}
"""Field of StampChanges to the stamp of container metadata that says the same."""


class Edit(NamedTuple):
    """before: as it stands on disk. after: the facts as they will stand; its tensors are still those of `before`.

    tokenizer_files: the files to record, None to keep what is recorded. notes: what the user should know. meter: told
    of the bytes as they are written. asked: stamps the user named that the format has no key for; they are checked
    with the others.
    """

    before: Checkpoint
    after: Checkpoint
    changes: tuple[Change, ...]
    tokenizer_files: Mapping[str, bytes] | None = None
    notes: tuple[str, ...] = ()
    meter: Meter | None = None
    asked: tuple[Stamp, ...] = ()


class Editor(NamedTuple):
    """How one format is stamped.

    plan: the edit that makes the changes. record: the edit with one more history entry. write: the edited checkpoint
    at a free path. change: what the edit changes where the checkpoint stands, None when tensors come or go with it and
    only a new file will do. history: the entries of earlier stamps, oldest first. places: what stamps can change, as
    place to keys. restored: the facts with the places as given.
    """

    plan: Callable[[Checkpoint, StampChanges, Mapping[str, bytes] | None], Edit]
    record: Callable[[Edit, Mapping[str, Any]], Edit]
    write: Callable[[Edit, Path], None]
    change: Callable[[Edit], DirectoryChange | None]
    history: Callable[[Checkpoint], list[Mapping[str, Any]]]
    places: Callable[[Checkpoint], dict[str, dict[str, Any]]]
    restored: Callable[[Checkpoint, Mapping[str, Mapping[str, Any]]], Checkpoint]


def restamped(stamps: tuple[Stamp, ...], values: Mapping[StampKey, str], place: str) -> tuple[Stamp, ...]:
    """`stamps` with the new `values`; a key that had no stamp gets one at `place`."""
    kept = [stamp._replace(value=values.get(stamp.key, stamp.value)) for stamp in stamps]
    present = {stamp.key for stamp in stamps}
    added = [Stamp(key, value, f"{place}: {key.value}") for key, value in values.items() if key not in present]
    return (*kept, *added)


def tokenizer_change(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> Change | None:
    """The change to a recorded tokenizer; file names and digests stand for its files, which are large."""
    previous = {name: f"blake3:{blake3_hex(data)}" for name, data in checkpoint.tokenizer_files().items()}
    new = {name: f"blake3:{blake3_hex(data)}" for name, data in files.items()}
    return None if previous == new else Change("tokenizer", previous or None, new, was_absent=not previous)


def refuse_fields(
    checkpoint: Checkpoint, changes: StampChanges, fields: tuple[str, ...], reason: str, remedy: str | None = None
) -> None:
    """Raise UsageError when `changes` sets one of `fields`, which have no place in this format.

    remedy: what to do instead, if not to convert the checkpoint to an `.apr`.
    """
    given = [OPTIONS[name] for name in fields if getattr(changes, name) is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be stamped on this format",
            where=str(checkpoint.path),
            expected="stamps that the format has a place for",
            found=reason,
            remedy=remedy or f"apr import {shell_word(checkpoint.path)} -o X.apr, then stamp X.apr",
        )


def stamps_given(changes: StampChanges, keys: Mapping[str, StampKey]) -> dict[StampKey, str]:
    """The identity stamps in `changes` that `keys` names, by stamp key."""
    return {keys[name]: changes.identity[name] for name in IDENTITY_FIELDS if name in keys and name in changes.identity}
