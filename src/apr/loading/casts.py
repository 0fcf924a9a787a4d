"""Casts that change no value, for tensors that a class or a user holds in a wider dtype than the file."""

from __future__ import annotations

from apr.formats.dtypes import DType

# By IEEE 754 and OCP FP8 widths of exponent and mantissa.
LOSSLESS: dict[DType, frozenset[DType]] = {
    DType.F8_E4M3: frozenset({DType.BF16, DType.F16, DType.F32, DType.F64}),
    DType.F8_E5M2: frozenset({DType.BF16, DType.F16, DType.F32, DType.F64}),
    DType.BF16: frozenset({DType.F32, DType.F64}),
    DType.F16: frozenset({DType.F32, DType.F64}),
    DType.F32: frozenset({DType.F64}),
}


def is_lossless(held: DType, wider: DType) -> bool:
    """Whether every value of `held` is a value of `wider`."""
    return held is wider or wider in LOSSLESS.get(held, frozenset())
