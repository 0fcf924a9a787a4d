"""The config a model is built from, resolved from what a checkpoint records, with the origin of every value."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from types import MappingProxyType
from typing import Any

from apr.formats.base import Checkpoint
from apr.identity.atlas import load_atlas
from apr.identity.entries import Entry, is_below_one_for_unset, own_name
from apr.identity.evidence import model_tensors
from apr.identity.matching import match
from apr.identity.renaming import as_the_class_names_them
from apr.identity.typed_config import Draft, resolve_typed, typed_name
from apr.identity.types import Architecture, Naming, Origin, ResolvedConfig

_OF_THE_FILE = frozenset({"architectures", "model_type", "auto_map", "transformers_version", "_name_or_path"})
"""Keys of a config that describe the file, not the model; the asked architecture takes their place."""


def resolve_config(checkpoint: Checkpoint, architecture: Architecture) -> ResolvedConfig:
    """The config of `architecture` as `checkpoint` records it; nothing is invented.

    With a recorded Hugging Face config, absent fields take the default of the config class, as the zoo does. With
    typed metadata alone, facts that no tensor shows and nobody recorded are `missing`. Recorded facts that
    contradict each other or the tensors are `conflicts`. Raises UnevaluableError for values that cannot be used.
    """
    if architecture.naming is Naming.GGUF:
        from apr.identity.gguf_config import resolve_gguf

        draft = resolve_gguf(checkpoint, architecture)
    else:
        entry = load_atlas().entry(architecture)
        draft = resolve_typed(checkpoint, entry) if checkpoint.config is None else _resolve_recorded(checkpoint, entry)
    return ResolvedConfig(
        architecture=architecture,
        values=MappingProxyType({**draft.values, "model_type": architecture.model_type}),
        origins=MappingProxyType(draft.origins),
        missing=tuple(draft.missing),
        conflicts=tuple(draft.conflicts),
    )


def _resolve_recorded(checkpoint: Checkpoint, entry: Entry) -> Draft:
    config = checkpoint.config or {}
    place = checkpoint.config_place or "the recorded config"
    draft = Draft()
    recorded = _renamed(config, entry)
    for name, value in recorded.items():
        draft.set(name, value, Origin.RECORDED)
    _resolve_rope(draft, entry, place)
    for name, value in entry.defaults.items():
        if name not in draft.values:
            draft.set(name, value, Origin.CLASS_DEFAULT)
    _compare_with_typed(draft, checkpoint, entry, place)
    _compare_with_tensors(draft, checkpoint, entry, place)
    return draft


def _renamed(config: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """Recorded fields under the names of `entry`'s class, also when they were written for another model type."""
    written_for = load_atlas().first_of(str(config.get("model_type")))
    common = {own: alias for alias, own in written_for.aliases.items()} if written_for else {}
    renamed: dict[str, Any] = {}
    for key, value in config.items():
        if key in _OF_THE_FILE:
            continue
        name = own_name(entry, key)
        renamed[name if name in entry.defaults else own_name(entry, common.get(key, key))] = value
    return renamed


def _resolve_rope(draft: Draft, entry: Entry, place: str) -> None:
    """One `rope_parameters` object from the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5."""
    if "rope_parameters" not in entry.defaults:
        return
    theta = draft.values.get("rope_theta")
    recorded = draft.values.get("rope_parameters")
    if isinstance(recorded, Mapping):
        nested = recorded.get("rope_theta")
        if not _agree(theta, nested):
            draft.conflicts.append(f"{place} says rope_theta {theta} and rope_parameters.rope_theta {nested}")
        return
    scaling = draft.values.get("rope_scaling")
    if not is_number(theta) or not (scaling is None or isinstance(scaling, Mapping)):
        return
    parameters = {**(scaling or {"rope_type": "default"})}
    parameters.setdefault("rope_theta", theta)
    for name in ("rope_theta", "rope_scaling"):
        draft.values.pop(name, None)
        draft.origins.pop(name, None)
    draft.set("rope_parameters", parameters, Origin.RECORDED)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _agree(one: object, two: object) -> bool:
    """Whether two recorded numbers are the same up to 32-bit rounding; what is no number contradicts nothing."""
    if not (is_number(one) and is_number(two)):
        return True
    return isclose(float(str(one)), float(str(two)), rel_tol=1e-6)


def _compare_with_typed(draft: Draft, checkpoint: Checkpoint, entry: Entry, place: str) -> None:
    for key, typed in checkpoint.typed.items():
        if key == "rope_theta":
            parameters = draft.values.get("rope_parameters")
            recorded = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
        else:
            recorded = draft.values.get(typed_name(entry, key))
        if not _agree(recorded, typed):
            draft.conflicts.append(f"the metadata says {key} {typed}, {place} says {recorded}")


def _compare_with_tensors(draft: Draft, checkpoint: Checkpoint, entry: Entry, place: str) -> None:
    account = match(entry, as_the_class_names_them(entry, model_tensors(checkpoint)))
    if not account.explains_all:
        return
    for name, solved in account.dimensions.items():
        recorded = draft.values.get(name)
        if is_number(recorded) and recorded != solved and not is_below_one_for_unset(entry, name, recorded):
            draft.conflicts.append(f"{place} says {name} {recorded}, the tensors show {solved}")
