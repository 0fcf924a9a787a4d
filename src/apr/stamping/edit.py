"""What a stamp will make of one checkpoint, decided before anything is written; one editor for each format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apr.convert.metering import UNMETERED, Meter
from apr.errors import UsageError
from apr.formats.base import Checkpoint, Stamp, StampKey
from apr.identity.atlas import load_atlas
from apr.stamping.changes import IDENTITY_FIELDS, OPTIONS, StampChanges
from apr.stamping.history import Change
from apr.storage.checksums import blake3_hex

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

BIAS_SWITCHES: Mapping[str, re.Pattern[str]] = {
    "attention_bias": re.compile(r"attn\.(q|k|v|qkv)_proj\.bias$"),
    "mlp_bias": re.compile(r"mlp\.(gate|up|down)_proj\.bias$"),
}
"""Config fields of the Llama family that say whether tensors exist, and the names of these tensors."""


@dataclass(frozen=True)
class Edit:
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
    meter: Meter = UNMETERED
    asked: tuple[Stamp, ...] = ()


@dataclass(frozen=True, slots=True)
class Editor:
    """How one format is stamped.

    plan: the edit that makes the changes. record: the edit with one more history entry. write: the edited checkpoint
    at a free path. write_in_place: changes it where it stands and yields it to be checked, all or nothing; None when
    the way is to write beside and rename.
    """

    plan: Callable[[Checkpoint, StampChanges, Mapping[str, bytes] | None], Edit]
    record: Callable[[Edit, Mapping[str, Any]], Edit]
    write: Callable[[Edit, Path], None]
    write_in_place: Callable[[Edit], AbstractContextManager[Path]] | None = None


def restamped(stamps: tuple[Stamp, ...], values: Mapping[StampKey, str], place: str) -> tuple[Stamp, ...]:
    """`stamps` with the new `values`; a key that had no stamp gets one at `place`."""
    kept = [replace(stamp, value=values.get(stamp.key, stamp.value)) for stamp in stamps]
    present = {stamp.key for stamp in stamps}
    added = [Stamp(key, value, f"{place}: {key.value}") for key, value in values.items() if key not in present]
    return (*kept, *added)


def config_changes(config: Mapping[str, Any], changes: StampChanges) -> dict[str, Any]:
    """What `changes` sets in a Hugging Face config: `architectures`, `model_type`, and provenance that stands there."""
    new: dict[str, Any] = {}
    if changes.hf_architecture is not None:
        new["architectures"] = [changes.hf_architecture]
    if changes.hf_model_type is not None:
        new["model_type"] = changes.hf_model_type
    new |= {key: value for key, value in changes.provenance.items() if key in config}
    return new


def contradicted_fields(config: Mapping[str, Any], checkpoint: Checkpoint, class_name: str | None) -> tuple[str, ...]:
    """Fields of another class's config that the tensors contradict and that the class being stamped does not have.

    A Llama config says `attention_bias: false`; over Qwen2 tensors, which have these biases, that is untrue. Fields
    that the stamped class does have are left alone: the gates hold them against the tensors.
    """
    entry = None if class_name is None else load_atlas().find_class(class_name)
    if entry is None:
        return ()
    return tuple(
        field
        for field, pattern in BIAS_SWITCHES.items()
        if isinstance(config.get(field), bool)
        and field not in entry.defaults
        and config[field] != any(pattern.search(name) for name in checkpoint.tensors)
    )


def rope_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` with a new rope base, when `settings` has one and the config keeps it there.

    The base stands in `rope_parameters` since transformers 5 and at the top before; a file must not say two things.
    """
    rope = config.get("rope_parameters")
    if "rope_theta" in settings and isinstance(rope, Mapping) and "rope_theta" in rope:
        return {"rope_parameters": {**rope, "rope_theta": settings["rope_theta"]}}
    return {}


def removals(place: str, config: Mapping[str, Any], fields: tuple[str, ...]) -> list[Change]:
    """The changes that take `fields` out of the config at `place`."""
    return [Change(f"{place}: {field}", config[field], None, is_removed=True) for field in fields]


def removal_notes(place: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    """What the user is told of each field taken out."""
    return tuple(
        f"{place}: {field} was removed, since the tensors contradict it and the stamped class has no such field"
        for field in fields
    )


def tokenizer_change(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> Change | None:
    """The change to a recorded tokenizer; file names and digests stand for its files, which are large."""
    previous = {name: f"blake3:{blake3_hex(data)}" for name, data in checkpoint.tokenizer_files().items()}
    new = {name: f"blake3:{blake3_hex(data)}" for name, data in files.items()}
    return None if previous == new else Change("tokenizer", previous or None, new, was_absent=not previous)


def refuse_fields(checkpoint: Checkpoint, changes: StampChanges, fields: tuple[str, ...], reason: str) -> None:
    """Raise UsageError when `changes` sets one of `fields`, which have no place in this format."""
    given = [OPTIONS[name] for name in fields if getattr(changes, name) is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be stamped on this format",
            where=str(checkpoint.path),
            expected="stamps that the format has a place for",
            found=reason,
            remedy=f"apr import {checkpoint.path} -o X.apr, then stamp X.apr",
        )


def stamps_given(changes: StampChanges, keys: Mapping[str, StampKey]) -> dict[StampKey, str]:
    """The identity stamps in `changes` that `keys` names, by stamp key."""
    return {keys[name]: changes.identity[name] for name in IDENTITY_FIELDS if name in keys and name in changes.identity}
