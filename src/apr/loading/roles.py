"""What a tensor is for, read from its name and rank; decides which values are legitimate."""

from __future__ import annotations

import re
from enum import Enum

from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType


class Role(Enum):
    """What a tensor is for."""

    MATRIX = "matrix"
    VECTOR = "vector"
    NORM_GAIN = "norm gain"
    FRESH_ADAPTER = "fresh adapter"

    @property
    def may_be_zero(self) -> bool:
        return self in MAY_BE_ZERO

    @property
    def may_be_constant(self) -> bool:
        return self in MAY_BE_CONSTANT


# Zero can be legitimate: biases start at zero, a fresh `lora_B` is zero, a norm that adds one to its gain starts at
# zero (facebookresearch/dinov3#195 is a healthy file with a zero bias).
MAY_BE_ZERO = frozenset({Role.VECTOR, Role.NORM_GAIN, Role.FRESH_ADAPTER})
MAY_BE_CONSTANT = frozenset({Role.VECTOR, Role.NORM_GAIN, Role.FRESH_ADAPTER})

# Floats whose numbers are the weights themselves; those of 8 bits are multiplied with a scale.
WIDE_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
NARROWEST_PROJECTION = 16
ROUTERS = frozenset({"gate", "wgate", "wg", "ffn_gate_inp", "classifier", "score"})


def role_of(entry: TensorEntry) -> Role:
    """The role of a stored tensor: matrices by rank; biases, norm gains and adapter outputs by their names.

    A bias is one whatever its rank: experts keep theirs in one tensor.
    """
    parts = entry.name.lower().split(".")
    if any(part in {"lora_b", "lora_embedding_b"} for part in parts):
        return Role.FRESH_ADAPTER
    # I-BERT keeps room for its integer weights beside the weights themselves.
    if parts[-1].endswith("bias") or parts[-1] == "weight_integer":
        return Role.VECTOR
    if len([dimension for dimension in entry.shape if dimension != 1]) >= 2:
        return Role.MATRIX
    owner = parts[-2] if len(parts) > 1 else ""
    if parts[-1] == "weight" and ("norm" in owner or owner.startswith("ln")):
        return Role.NORM_GAIN
    return Role.VECTOR


def is_table_of_tokens(entry: TensorEntry) -> bool:
    """Whether the rows belong to tokens or positions, some of which may never have been seen."""
    owner = entry.name.lower().split(".")[-2:-1]
    return any(part in name for name in owner for part in ("embed", "wte", "wpe", "head", "shared", "emb"))


def holds_experts(entry: TensorEntry) -> bool:
    """Whether a tensor holds the same matrix of several experts, one after the other."""
    name = entry.name.lower()
    stacks = ("expert", "exps", "moe", ".input_linear.", ".output_linear.")
    return (
        len(entry.shape) == 3 and min(entry.shape[1:]) >= NARROWEST_PROJECTION and any(part in name for part in stacks)
    )


def is_projection(entry: TensorEntry) -> bool:
    """Whether a tensor is a dense matrix of floats that every input goes through, or the same of several experts.

    Tables, routers, kernels of convolutions and narrow matrices (state matrices, gates of a few heads) are none: their
    rows may be unused, alike or set by hand.
    """
    if entry.dtype not in WIDE_FLOATS or len(entry.shape) < 2 or min(entry.shape[-2:]) < NARROWEST_PROJECTION:
        return False
    name = entry.name.lower()
    return (
        ((len(entry.shape) == 2 and name.endswith(".weight")) or holds_experts(entry))
        and role_of(entry) is Role.MATRIX
        and not is_table_of_tokens(entry)
        and not is_router(entry)
        and not ("conv" in name or "lora" in name)
    )


def is_router(entry: TensorEntry) -> bool:
    """Whether a matrix gives a score to each expert or label: few rows, and any of them may be set by hand."""
    parts = entry.name.lower().split(".")
    return parts[-2:-1] in [[router] for router in ROUTERS] or any("router" in part for part in parts)


def across_layers(name: str) -> str:
    """The name with its numbers replaced, equal for the same tensor of every layer."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
