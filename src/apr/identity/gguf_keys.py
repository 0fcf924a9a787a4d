"""Keys of a GGUF file that no model can be computed with, or that say what the tensors deny.

What they are held against is what llama.cpp does with them (`llama-model.cpp`, `load_hparams`): it stops at an unknown
type of rope scaling, at other counts of chosen experts than 1 to all of them, and, for some architectures, at a
rotation of a part of a head. The rest it computes with, whatever comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite, isnan
from typing import Any, NamedTuple, TypeGuard

from apr.formats.base import Checkpoint
from apr.formats.gguf.layout import TYPE_KEY, ValueType
from apr.formats.gguf.values import Array
from apr.identity.gguf_atlas import gguf_facts

ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")
"""`gguf.constants.RopeScalingType`."""

ROTATE_WHOLE_HEADS = frozenset({"llama", "llama-embed", "deci", "falcon"})
"""Architectures of which llama.cpp loads no file that rotates a part of a head."""

MOST_VALUES_READ = 4096
"""A list of numbers that belong to layers is no longer."""

_EXPERT = re.compile(r"exp|ffn_gate_inp|ffn_(gate|up|down)\.\d+\.")
"""In the name of a tensor of experts: their weights, now in one tensor and formerly in one each, or their router."""


class KeyFault(NamedTuple):
    """One key that is wrong. settings: what `apr stamp --set` takes to repair it; empty where that keeps it wrong.

    `VALUE` in settings stands for the value the model was trained with.
    """

    key: str
    message: str
    expected: str
    found: str
    settings: tuple[str, ...] = ()


def key_faults(checkpoint: Checkpoint, slug: str, values: Mapping[str, Any]) -> Iterator[KeyFault]:
    """The faults in the keys of `checkpoint`, of the architecture `slug`, whose resolved config is `values`."""
    below = {key.removeprefix(f"{slug}."): key for key in checkpoint.metadata if key.startswith(f"{slug}.")}
    own = {suffix: checkpoint.metadata[key] for suffix, key in below.items()}
    faults = (
        *_not_a_number(own),
        *_rope_scaling(own),
        *_rotation(own, values, slug),
        *_context(own),
        *_logit_scale(own),
        *_experts(own, values, checkpoint.tensors),
    )
    for fault in faults:
        settings = tuple(f"{slug}.{setting}" for setting in fault.settings)
        yield fault._replace(key=f"{slug}.{fault.key}", settings=settings)
    yield from _file_type(checkpoint.metadata)


def _not_a_number(own: Mapping[str, Any]) -> Iterator[KeyFault]:
    """NaN alone: infinity is what some keys mean (the sparsity of Gemma 3n's layers without any)."""
    for key, value in own.items():
        for each in _numbers(value):
            if isinstance(each, float) and isnan(each):
                settings = () if isinstance(value, list | Array) else (f"{key}=VALUE",)
                yield KeyFault(key, "is no number", "a number", "NaN", settings)
                break


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, Array):
        is_read = value.element_type in (ValueType.F32, ValueType.F64) and value.element_count <= MOST_VALUES_READ
        return value.values() if is_read else []
    return value if isinstance(value, list) else [value]


def _rope_scaling(own: Mapping[str, Any]) -> Iterator[KeyFault]:
    kind, factor = own.get("rope.scaling.type"), own.get("rope.scaling.factor")
    if kind is not None and kind not in ROPE_SCALING_TYPES:
        settings = ('rope.scaling.type="TYPE"',) if isinstance(kind, str) else ()
        expected = f"one of {', '.join(ROPE_SCALING_TYPES)}"
        yield KeyFault(
            "rope.scaling.type", "names no way of scaling that llama.cpp has", expected, _shown(kind), settings
        )
    if factor is None or (isinstance(factor, float) and isnan(factor)):
        return
    expected = "a finite number above 0"
    if not _is_number(factor):
        yield KeyFault("rope.scaling.factor", "is no number", expected, _shown(factor))
    # Without a type llama.cpp takes 0 for no scaling, and with the type `none` it looks at no factor.
    elif kind != "none" and (factor < 0 or not isfinite(factor) or (factor == 0 and kind is not None)):
        message = "is no factor that positions can be scaled by"
        yield KeyFault("rope.scaling.factor", message, expected, _shown(factor), ("rope.scaling.factor=VALUE",))


def _rotation(own: Mapping[str, Any], values: Mapping[str, Any], slug: str) -> Iterator[KeyFault]:
    key = "rope.dimension_count"
    rotated, width = own.get(key), _head_width(own, values)
    if not _is_whole(rotated) or width is None or gguf_facts(slug).rope == "none":
        return
    if slug in ROTATE_WHOLE_HEADS:
        is_wrong, expected = rotated != width, f"{width}, the width of a head, all of which {slug} rotates"
    else:
        is_wrong = rotated > width or rotated % 2 != 0
        expected = f"an even number up to {width}, the width of a head"
    if is_wrong:
        yield KeyFault(key, "counts dimensions that a head cannot rotate", expected, _shown(rotated), (f"{key}=VALUE",))


def _head_width(own: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """As llama.cpp takes it: the stated one, else the width of the model by its heads; None where neither is told."""
    if "attention.key_length" in own:
        stated = own["attention.key_length"]
        return stated if _is_whole(stated) and stated > 0 else None
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    return int(width // heads) if _is_whole(heads) and _is_whole(width) and heads > 0 else None


def _context(own: Mapping[str, Any]) -> Iterator[KeyFault]:
    if own.get("context_length") == 0:
        yield KeyFault(
            "context_length", "leaves no room for a token", "a number above 0", "0", ("context_length=VALUE",)
        )


def _logit_scale(own: Mapping[str, Any]) -> Iterator[KeyFault]:
    value = own.get("logit_scale")
    if value is None or (isinstance(value, float) and isnan(value)):
        return
    if not _is_number(value) or value == 0 or not isfinite(value):
        settings = ("logit_scale=VALUE",) if _is_number(value) else ()
        yield KeyFault(
            "logit_scale", "is nothing to scale logits by", "a finite number other than 0", _shown(value), settings
        )


def _experts(own: Mapping[str, Any], values: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[KeyFault]:
    """Of one expert or none, files of dense models speak too."""
    count, used = own.get("expert_count", 0), own.get("expert_used_count", 0)
    if not _is_whole(count) or not _is_whole(used):
        return
    layers, dense = values.get("num_hidden_layers"), values.get("first_k_dense_replace", 0)
    are_all_dense = _is_whole(layers) and _is_whole(dense) and dense >= layers
    if count > 1 and not are_all_dense and not any(_EXPERT.search(name) for name in names):
        settings = ("expert_count=0", *(("expert_used_count=0",) if "expert_used_count" in own else ()))
        message = "counts experts, and no tensor is one of an expert"
        yield KeyFault("expert_count", message, "0, or the tensors of experts", _shown(count), settings)
    elif (count > 1 and used < 1) or (used > 1 and used > count):
        found = _shown(used) if "expert_used_count" in own else "absent"
        message = "is no number of experts that can be chosen for a token"
        expected = f"a number from 1 to {count}" if count else "0, or a count of experts under expert_count"
        yield KeyFault("expert_used_count", message, expected, found, ("expert_used_count=VALUE",))


def _file_type(metadata: Mapping[str, Any]) -> Iterator[KeyFault]:
    """`gguf.constants.GGUFType`: an adapter, an importance matrix and a projector say so here."""
    value = metadata.get(TYPE_KEY)
    if value is not None and value != "model":
        settings = (f'{TYPE_KEY}="model"',) if isinstance(value, str) else ()
        message = "says that the file is something else than a model"
        yield KeyFault(TYPE_KEY, message, "model, where the file is one", _shown(value), settings)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return f"{value!r:.80}"
