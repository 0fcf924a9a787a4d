"""Declared casts: which dtype a resident tensor may have, given the stored one and what the caller declared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from apr.errors import UsageError
from apr.formats.dtypes import ENCODINGS, DType
from apr.loading.casts import is_lossless

if TYPE_CHECKING:
    import torch


def is_declared_cast(stored: DType, resident: DType, declared: frozenset[DType], *, has_scale: bool = False) -> bool:
    """Whether a tensor stored as `stored` may be resident as `resident`.

    Unchanged or losslessly widened always; rounded only into a dtype the caller declared; integers never.
    Block-quantised tensors and those with a scale become F32 when they are read, any other dtype has to be declared.
    """
    if has_scale:
        return resident in {DType.F32, DType.F64} or resident in declared
    if is_lossless(stored, resident):
        return True
    encoding = ENCODINGS[stored]
    if encoding.is_quantized:
        return resident is DType.F32 or resident in declared
    return encoding.is_float and ENCODINGS[resident].is_float and resident in declared


def declared_dtypes(dtype: Any) -> frozenset[DType]:
    """The dtypes named by a `dtype=` argument: None or "auto" name none; a torch dtype, its name, an own DType or its
    name name one; a mapping or other iterable of those names several.

    Raises UsageError for what is no dtype.
    """
    if dtype is None or dtype == "auto":
        return frozenset()
    if isinstance(dtype, dict):
        return frozenset().union(*(declared_dtypes(value) for value in dtype.values()))
    if not isinstance(dtype, str) and isinstance(dtype, Iterable):
        return frozenset().union(*(declared_dtypes(value) for value in dtype))
    return frozenset({one_dtype(dtype)})


def one_dtype(dtype: torch.dtype | DType | str) -> DType:
    """The stored dtype that `dtype` names: `torch.bfloat16`, "bfloat16", "torch.bfloat16", `DType.BF16` or "BF16"."""
    import torch

    from apr.loading.torch_dtypes import from_torch_dtype

    if isinstance(dtype, DType):
        return dtype
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if isinstance(named, torch.dtype):
        return from_torch_dtype(named)
    try:
        return DType(str(dtype))
    except ValueError as error:
        raise UsageError(
            "this is no dtype", expected="a torch dtype or its name, as torch.bfloat16", found=repr(dtype)
        ) from error
