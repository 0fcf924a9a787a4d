"""The config a model is built from, resolved from what a checkpoint records, with the origin of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from apr.errors import shortened, shown_text
from apr.formats.base import Checkpoint
from apr.identity.atlas import load_atlas
from apr.identity.entries import Entry, is_below_one_for_unset, own_name
from apr.identity.evidence import model_tensors
from apr.identity.matching import match
from apr.identity.renaming import as_the_class_names_them
from apr.identity.rope import agree, is_number, resolve_rope
from apr.identity.typed_config import Draft, resolve_typed, typed_name
from apr.identity.types import Architecture, Naming, Origin, ResolvedConfig

_OF_THE_FILE = frozenset({"architectures", "model_type", "auto_map", "transformers_version", "_name_or_path"})
"""Keys of a config that describe the file, not the model; the asked architecture takes their place."""

_LONGEST_CONFLICT = 1000


ACTIVATION_IS_DERIVED = frozenset({"t5", "mt5", "umt5", "longt5", "pop2piano", "udop"})
"""Model types whose config makes two fields of `feed_forward_proj` (transformers 5.23, `configuration_*.py`)."""


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
        conflicts=tuple(shortened(line, _LONGEST_CONFLICT) for line in draft.conflicts),
    )


def _resolve_recorded(checkpoint: Checkpoint, entry: Entry) -> Draft:
    config = checkpoint.config or {}
    place = checkpoint.config_place or "the recorded config"
    draft = Draft()
    for name, value in _renamed(config, entry, place, draft.conflicts).items():
        draft.set(name, value, Origin.RECORDED)
    resolve_rope(draft, entry, place)
    if entry.architecture.model_type in ACTIVATION_IS_DERIVED:
        draft.conflicts += _two_activations(draft, place)
    for name, value in entry.defaults.items():
        if name not in draft.values:
            draft.set(name, value, Origin.CLASS_DEFAULT)
    _compare_with_typed(draft, checkpoint, entry, place)
    _compare_with_tensors(draft, checkpoint, entry, place)
    return draft


def _renamed(config: Mapping[str, Any], entry: Entry, place: str, conflicts: list[str]) -> dict[str, Any]:
    """Recorded fields under the names of `entry`'s class, also when they were written for another model type.

    conflicts: gets a line for each field that is recorded under two names with two values.
    """
    written_for = load_atlas().first_of(str(config.get("model_type")))
    common = {own: alias for alias, own in written_for.aliases.items()} if written_for else {}
    renamed: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in config.items():
        if key in _OF_THE_FILE:
            continue
        name = own_name(entry, key)
        name = name if name in entry.defaults else own_name(entry, common.get(key, key))
        if name in renamed and renamed[name] != value:
            conflicts.append(
                f"{place} says {keys[name]} {shown_text(renamed[name])} and {key} {shown_text(value)}, "
                "which are one field"
            )
        renamed[name], keys[name] = value, key
    return renamed


def _two_activations(draft: Draft, place: str) -> Iterator[str]:
    """Two fields that follow from `feed_forward_proj`, and are taken from the file where they stand there."""
    projection = draft.values.get("feed_forward_proj")
    if not isinstance(projection, str):
        return
    gate, _, activation = projection.rpartition("-")
    implied = {
        "dense_act_fn": "gelu_new" if projection == "gated-gelu" else activation,
        "is_gated_act": gate == "gated",
    }
    for name, value in implied.items():
        if draft.values.get(name, value) != value:
            yield f"{place} says feed_forward_proj {projection} and {name} {draft.values[name]}"


def _compare_with_typed(draft: Draft, checkpoint: Checkpoint, entry: Entry, place: str) -> None:
    for key, typed in checkpoint.typed.items():
        if key == "rope_theta":
            parameters = draft.values.get("rope_parameters")
            recorded = parameters.get("rope_theta") if isinstance(parameters, Mapping) else None
        else:
            recorded = draft.values.get(typed_name(entry, key))
        if not agree(recorded, typed):
            draft.conflicts.append(f"the metadata says {key} {shown_text(typed)}, {place} says {shown_text(recorded)}")


def _compare_with_tensors(draft: Draft, checkpoint: Checkpoint, entry: Entry, place: str) -> None:
    account = match(entry, as_the_class_names_them(entry, model_tensors(checkpoint)))
    if not account.explains_all:
        return
    for name, solved in account.dimensions.items():
        recorded = draft.values.get(name)
        if is_number(recorded) and recorded != solved and not is_below_one_for_unset(entry, name, recorded):
            draft.conflicts.append(f"{place} says {name} {shown_text(recorded)}, the tensors show {solved}")
