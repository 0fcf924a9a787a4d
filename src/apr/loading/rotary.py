"""Rotary tables that a class makes anew for long sequences (transformers, `dynamic_rope_update`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_table_for_a_length(model: torch.nn.Module, name: str) -> bool:
    """Whether the buffer `name` is the frequencies that its module computes for the longest sequence it has seen.

    "longrope" keeps one table beyond the original context, "dynamic" one for each length; the table for short
    sequences, to which both return, is a buffer of its own (`original_inv_freq`).
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    place, _, leaf = name.rpartition(".")
    if not leaf.endswith("inv_freq") or leaf.endswith("original_inv_freq"):
        return False
    module: Any = model.get_submodule(place)
    prefix = leaf.removesuffix("inv_freq")
    layer_type = prefix.removesuffix("_") or None
    try:
        kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
        length = _length(module, kind, prefix, layer_type)
        if length is None:
            return False
        own: torch.Tensor = getattr(module, leaf)
        expected, _ = ROPE_INIT_FUNCTIONS[kind](module.config, own.device, seq_len=length, layer_type=layer_type)
    except (AttributeError, KeyError, TypeError):
        return False  # No such module of the zoo: the plain comparison stands.
    return own.dtype is expected.dtype and torch.equal(own, expected)


def _length(module: Any, kind: str, prefix: str, layer_type: str | None) -> Any:
    if kind == "longrope":
        rope = module.config.rope_parameters
        return (rope if layer_type is None else rope[layer_type])["original_max_position_embeddings"] + 1
    if "dynamic" in kind:
        return getattr(module, f"{prefix}max_seq_len_cached", module.max_seq_len_cached)
    return None
