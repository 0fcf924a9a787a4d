"""Stored dtypes and their torch counterparts, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr.errors import UsageError
from apr.formats.dtypes import DType

if TYPE_CHECKING:
    import torch

_TORCH_NAMES: dict[DType, str] = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F8_E4M3: "float8_e4m3fn",
    DType.F8_E5M2: "float8_e5m2",
    DType.F8_E8M0: "float8_e8m0fnu",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U64: "uint64",
    DType.U32: "uint32",
    DType.U16: "uint16",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}
_DTYPES = {name: dtype for dtype, name in _TORCH_NAMES.items()}


def to_torch_dtype(dtype: DType) -> torch.dtype:
    """The torch dtype of a stored dtype; UsageError for block-quantised ones, which torch cannot hold."""
    import torch

    name = _TORCH_NAMES.get(dtype)
    if name is None:
        raise UsageError("torch has no dtype for this encoding", expected=", ".join(_TORCH_NAMES), found=str(dtype))
    found: torch.dtype = getattr(torch, name)
    return found


def from_torch_dtype(dtype: torch.dtype) -> DType:
    """The stored dtype of a torch dtype; UsageError when no format of ours stores it."""
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise UsageError("this torch dtype cannot be stored", expected=", ".join(_DTYPES), found=name)
    return _DTYPES[name]
