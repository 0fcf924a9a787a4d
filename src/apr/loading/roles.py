"""What a tensor is for, read from its name and rank; decides which values are legitimate."""

from __future__ import annotations

import re
from enum import Enum

from apr.formats.base import TensorEntry


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


def role_of(entry: TensorEntry) -> Role:
    """The role of a stored tensor: matrices by rank; biases, norm gains and adapter outputs by their names.

    A bias is one whatever its rank: experts keep theirs in one tensor.
    """
    parts = entry.name.lower().split(".")
    if any(part in {"lora_b", "lora_embedding_b"} for part in parts):
        return Role.FRESH_ADAPTER
    if parts[-1].endswith("bias"):
        return Role.VECTOR
    if len([dimension for dimension in entry.shape if dimension != 1]) >= 2:
        return Role.MATRIX
    owner = parts[-2] if len(parts) > 1 else ""
    if parts[-1] == "weight" and ("norm" in owner or owner.startswith("ln")):
        return Role.NORM_GAIN
    return Role.VECTOR


def across_layers(name: str) -> str:
    """The name with its numbers replaced, equal for the same tensor of every layer."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
