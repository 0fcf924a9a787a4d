"""Quantised tensors of APR v2 and GGUF as float32. Block layouts: `docs/format-apr2.md`, "Quantised forms", and ggml's
as the `gguf` package decodes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from apr.errors import DamagedFileError, UsageError
from apr.formats.apr2.extents import padded_rows_size_bytes
from apr.formats.damage import FILE_INTEGRITY
from apr.formats.dtypes import ENCODINGS, NOT_DECODED, DType, stored_size_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Q4_BLOCK_ELEMENTS = ENCODINGS[DType.APR_Q4].block_elements
_SMALLEST_NORMAL_F16 = 2.0**-14


def dequantize(raw: bytes, dtype: DType, shape: tuple[int, ...], *, where: str = "a tensor") -> NDArray[np.float32]:
    """The values of a quantised tensor, shape `shape`, from its stored bytes; `where` names it in errors.

    Raises DamagedFileError when `raw` has another size than dtype and shape allow, or when the size fits both ways of
    laying out rows that are no multiple of the block, so that the values are not known; UsageError for a block type
    that is not decoded.
    """
    import numpy as np

    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, np.float32)
    if dtype is DType.APR_Q8:
        _check_size(raw, {stored_size_bytes(dtype, count)}, dtype, shape, where)
        scale = np.frombuffer(raw, "<f4", 1)
        values = np.frombuffer(raw, np.int8, count, offset=4).astype(np.float32)
        values *= scale
        return values.reshape(shape)
    if dtype is DType.APR_Q4:
        _check_size(raw, {stored_size_bytes(dtype, count)}, dtype, shape, where)
        return _apr_q4(raw, count).reshape(shape)
    if not ENCODINGS[dtype].is_quantized:
        raise ValueError(f"{dtype} is not a quantised dtype")
    if dtype in NOT_DECODED:
        raise UsageError(
            "the values of this block type are not decoded",
            where=where,
            found=str(dtype),
            remedy="use a file of another type of quantisation",
        )
    return _ggml(raw, dtype, shape, where)


def _apr_q4(raw: bytes, count: int) -> NDArray[np.float32]:
    """Low nibble first; scales that are not finite or not normal count as zero, as in upstream's reader."""
    import numpy as np

    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("nibbles", "u1", (_Q4_BLOCK_ELEMENTS // 2,))]))
    scales = blocks["scale"].astype(np.float32)
    scales[~np.isfinite(scales) | (scales < _SMALLEST_NORMAL_F16)] = 0.0
    nibbles = blocks["nibbles"]
    values = np.empty((len(blocks), _Q4_BLOCK_ELEMENTS), np.float32)
    values[:, 0::2] = (nibbles & 0x0F).astype(np.float32)
    values[:, 1::2] = (nibbles >> 4).astype(np.float32)
    values -= 8.0
    values *= scales[:, None]
    return values.reshape(-1)[:count]


def _ggml(raw: bytes, dtype: DType, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    count, row_length = math.prod(shape), shape[-1] if shape else 1
    flat_size, padded_size = stored_size_bytes(dtype, count), padded_rows_size_bytes(dtype, shape)
    _check_size(raw, {flat_size, padded_size}, dtype, shape, where)
    encoding = ENCODINGS[dtype]
    is_whole = row_length % encoding.block_elements == 0 or count == row_length
    if flat_size == padded_size and not is_whole:
        raise DamagedFileError(
            "the rows of a block-quantised tensor can be laid out in two ways that fit its size",
            where=where,
            expected=f"rows of a multiple of {encoding.block_elements} elements",
            found=f"{dtype} {list(shape)} in {len(raw)} bytes",
            invariant=FILE_INTEGRITY,
            remedy="import the model again from its source without quantisation",
        )
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, encoding.block_bytes)
    kind: Any = GGMLQuantizationType[dtype.value]
    values: NDArray[np.float32] = quants.dequantize(blocks, kind).astype(np.float32, copy=False).reshape(-1)
    if len(raw) == flat_size:
        return values[:count].reshape(shape)
    rows = values.reshape(count // row_length, -1)[:, :row_length]
    return np.ascontiguousarray(rows).reshape(shape)


def _check_size(raw: bytes, sizes: set[int], dtype: DType, shape: tuple[int, ...], where: str) -> None:
    if len(raw) not in sizes:
        raise DamagedFileError(
            "the size of a quantised tensor does not follow from its dtype and shape",
            where=where,
            expected=f"{' or '.join(map(str, sorted(sizes)))} bytes for {dtype} {list(shape)}",
            found=f"{len(raw)} bytes",
            invariant=FILE_INTEGRITY,
            remedy="fetch or write the file again from an intact source",
        )
