"""The config facts of a GGUF file: what its keys state, held against the tensors, and what no key states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isclose
from typing import Any

from apr.formats.base import Checkpoint
from apr.identity.entries import Entry, Place
from apr.identity.gguf_atlas import KEYS, GgufFacts, gguf_facts, load_gguf_atlas
from apr.identity.gguf_matching import gguf_names, match_gguf
from apr.identity.matching import Account
from apr.identity.names import FileNames, find_group
from apr.identity.shapes import UnevaluableError, checked_integer
from apr.identity.typed_config import Draft
from apr.identity.types import Architecture, Origin

ARCHITECTURE_KEY = "general.architecture"

ALWAYS_REQUIRED = ("context_length", "embedding_length", "block_count")
"""Keys that the loader of llama.cpp wants of every architecture."""

UNTOLD_BASE = 10000.0
"""The base of the rotation that llama.cpp takes where a file gives none."""

MOST_LAYERS = 4096
"""A longer list is none of values for layers, and is not looked into."""

BY_LAYER = "{}_by_layer"
"""The field of values that differ from layer to layer."""

_KEY_PROJECTION: tuple[str, tuple[str, ...], Place] = (
    "blk.{layer}.attn_k.weight",
    ("num_key_value_heads*value_head_dim",),
    (),
)
"""The tensor that makes keys, its rows where values are as wide, and no condition on the layers that have it."""

_MAY_BE_ZERO = frozenset({"num_attention_heads", "num_key_value_heads", "intermediate_size", "num_experts"})
_CONSTANTS = frozenset({"rope_theta", "rms_norm_eps", "layer_norm_eps"})


def resolve_gguf(checkpoint: Checkpoint, architecture: Architecture) -> Draft:
    """The config of `architecture` as the keys and tensors of `checkpoint` give it; nothing is invented.

    Values stand under the names of Hugging Face configs. missing: keys, as they are spelled in the file, without which
    the mathematics is not known (head count, norm epsilon, rope base) or llama.cpp does not load it. Raises
    UnevaluableError for values that cannot be used.
    """
    entry, facts = load_gguf_atlas().entry(architecture), gguf_facts(architecture.model_type)
    draft = Draft()
    foreign = _foreign_prefix(checkpoint, architecture.model_type)
    if foreign is not None:
        draft.conflicts.append(
            f"the keys are written for {foreign} ({foreign}.block_count), {ARCHITECTURE_KEY} says "
            f"{architecture.model_type}"
        )
    stated = dict(_stated(checkpoint, architecture.model_type, rotates=facts.rope != "none"))
    for name, value in stated.items():
        draft.set(name, value, Origin.TYPED)
    shown = _held_against_tensors(checkpoint, entry, stated, draft)
    for name, value in shown.dimensions.items():
        # What ids the model has an embedding for, the embedding says.
        if name not in draft.values or name == "vocab_size":
            draft.set(name, value, Origin.TENSORS)
    if facts.is_base_untold and "rope_theta" not in draft.values:
        draft.set("rope_theta", UNTOLD_BASE, Origin.CLASS_DEFAULT)
    if foreign is None:
        draft.missing += _missing(checkpoint, entry, facts, architecture.model_type)
    return draft


def known_dimensions(values: Mapping[str, Any]) -> dict[str, int]:
    """Whole numbers of a resolved config, with what llama.cpp derives from them where a key is absent."""
    known = {name: value for name, value in values.items() if isinstance(value, int) and not isinstance(value, bool)}
    heads, width = known.get("num_attention_heads"), known.get("hidden_size")
    if heads:
        if BY_LAYER.format("num_key_value_heads") not in values:
            known.setdefault("num_key_value_heads", heads)
        if width and width % heads == 0:
            known.setdefault("head_dim", width // heads)
            known.setdefault("value_head_dim", width // heads)
    if "head_dim" in known:
        known.setdefault("rotary_dim", known["head_dim"])
    known.setdefault("first_k_dense_replace", 0)
    return known


def _foreign_prefix(checkpoint: Checkpoint, slug: str) -> str | None:
    """The architecture whose name the keys begin with, when it is not the one that is claimed."""
    prefixes = {key.removesuffix(".block_count") for key in checkpoint.metadata if key.endswith(".block_count")}
    return None if not prefixes or slug in prefixes else min(prefixes)


def _stated(checkpoint: Checkpoint, slug: str, *, rotates: bool) -> Iterator[tuple[str, Any]]:
    """Fields with the values the keys give them; one value for each layer counts where all layers share it.

    rotates: whether positions are rotated, and the base of that is used.
    """
    for name, suffix in KEYS.items():
        key = f"{slug}.{suffix}"
        value = checkpoint.metadata.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            name, value = _for_all_layers(name, value) if len(value) <= MOST_LAYERS else (name, None)
        elif value is not None:
            is_divided_by = name == "rope_theta" and rotates
            value = _checked_constant(key, value, is_divided_by) if name in _CONSTANTS else checked_integer(key, value)
        # A model without attention says that it has 0 heads.
        if value is not None and not (value == 0 and name in _MAY_BE_ZERO):
            yield name, value
    size = checkpoint.typed.get("vocab_size")
    if size is not None:
        yield "vocab_size", checked_integer("vocab_size", size)


def _checked_constant(key: str, value: Any, is_divided_by: bool) -> int | float:
    """`value` as a finite number that is not negative, nor 0 where it is divided by; UnevaluableError otherwise."""
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < inf
        and (value or not is_divided_by)
    ):
        return value
    raise UnevaluableError(
        f"the key {key} cannot be used",
        where=f"key {key}",
        expected="a finite number above 0" if is_divided_by else "a finite number, not below 0",
        found=repr(value)[:80],
        invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        remedy="correct the key, or fetch an intact copy of the checkpoint",
    )


def _for_all_layers(name: str, values: Sequence[Any]) -> tuple[str, Any]:
    """A value for each layer as the one they share, else under a name that says so."""
    found = list(values)
    is_shared = bool(found) and isinstance(found[0], int) and all(each == found[0] for each in found)
    return (name, found[0]) if is_shared else (BY_LAYER.format(name), found)


def _held_against_tensors(checkpoint: Checkpoint, entry: Entry, stated: Mapping[str, Any], draft: Draft) -> Account:
    """The account of the file by its tensors alone; what is stated and contradicts it becomes a conflict."""
    names = gguf_names(checkpoint)
    shown = match_gguf(entry, names)
    for name, value in stated.items():
        found = shown.dimensions.get(name)
        if found is not None and not _agrees(name, value, found, stated):
            draft.conflicts.append(f"the keys say {name} {value}, the tensors show {found}")
    heads, width = stated.get("num_attention_heads"), shown.dimensions.get("hidden_size")
    if heads and width and "head_dim" not in {**stated, **shown.dimensions} and width % heads:
        draft.conflicts.append(f"the keys say num_attention_heads {heads}, which does not divide hidden_size {width}")
    known = known_dimensions({**stated, **shown.dimensions})
    draft.conflicts += _key_width_conflicts(entry, names, stated, known)
    account = match_gguf(entry, names, known=known)
    draft.conflicts += [line for line in account.shape_conflicts if line not in shown.shape_conflicts]
    return shown


def _key_width_conflicts(
    entry: Entry, names: FileNames, stated: Mapping[str, Any], known: Mapping[str, int]
) -> Iterator[str]:
    """A stated width of keys that the key projections do not have, where all layers have one of plain attention.

    llama.cpp creates that tensor by the width of values, and asserts that keys are as wide.
    """
    width, heads = stated.get("head_dim"), known.get("num_key_value_heads")
    is_plain = any((each.pattern, each.dims[:1], each.where) == _KEY_PROJECTION for each in entry.templates)
    group = find_group(_KEY_PROJECTION[0], names)
    if width is None or heads is None or group is None or not is_plain:
        return
    rows = {names.shapes[name][0] for name in group.rows.values()}
    if len(rows) == 1 and rows != {heads * width}:
        yield f"the keys say head_dim {width} for {heads} heads, the tensors show {rows.pop()} rows of keys"


def _agrees(name: str, stated: Any, found: int, all_stated: Mapping[str, Any]) -> bool:
    if name in _CONSTANTS:
        return isclose(stated, found)
    further = all_stated.get("num_nextn_layers") or 0
    # Files without the layers for further tokens still count them.
    return stated == found or (name == "num_hidden_layers" and stated - further == found)


def _missing(checkpoint: Checkpoint, entry: Entry, facts: GgufFacts, slug: str) -> Iterator[str]:
    """Keys that nobody wrote, as they would be spelled."""
    if not entry.is_exact:
        return
    patterns = [each.pattern for each in entry.templates]
    wanted = [*ALWAYS_REQUIRED, *facts.required_keys]
    if any(".attn_" in pattern and "norm" not in pattern for pattern in patterns):
        wanted.append("attention.head_count")
    if facts.rope not in (None, "none") and not facts.is_base_untold and "position_embd.weight" not in patterns:
        wanted.append("rope.freq_base")
    for suffix in dict.fromkeys(wanted):
        if f"{slug}.{suffix}" not in checkpoint.metadata:
            yield f"{slug}.{suffix}"
