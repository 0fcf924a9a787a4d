"""Exact statistics of one stored tensor over all its elements (`apr tensors --stats`).

Memory stays at one chunk; a block-quantised tensor is decoded whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.formats.base import TensorEntry
from apr.formats.dtypes import ENCODINGS, NOT_DECODED, DType

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, np.dtype[np.float64]]

CHUNK_BYTES = 4 << 20
_INTEGERS: dict[DType, str] = {
    DType.I64: "<i8",
    DType.I32: "<i4",
    DType.I16: "<i2",
    DType.I8: "i1",
    DType.U64: "<u8",
    DType.U32: "<u4",
    DType.U16: "<u2",
    DType.U8: "u1",
    DType.BOOL: "u1",
}
_FLOATS: dict[DType, str] = {DType.F64: "<f8", DType.F32: "<f4", DType.F16: "<f2"}


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Mean, standard deviation (population), minimum and maximum are over the finite elements; None without any.

    `problem` says why there is nothing to tell (no bytes are stored, values that are not decoded), None otherwise.
    """

    count: int
    nan_count: int
    inf_count: int
    zero_count: int
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    problem: str | None = None


def tensor_statistics(entry: TensorEntry) -> TensorStatistics:
    """The statistics of `entry`; raises DamagedFileError or InputOutputError when its bytes cannot be read."""
    import numpy as np

    if entry.is_placeholder:
        return _nothing("stored with zero bytes: the tied head of older files")
    if entry.dtype in NOT_DECODED:
        return _nothing(f"values of {entry.dtype} are not decoded")
    count = nan_count = inf_count = zero_count = finite_count = 0
    mean = squares = 0.0
    lowest, highest = math.inf, -math.inf
    for values in value_chunks(entry):
        count += values.size
        finite = values[np.isfinite(values)]
        missing = int(np.count_nonzero(np.isnan(values)))
        nan_count += missing
        inf_count += values.size - finite.size - missing
        zero_count += int(values.size - np.count_nonzero(values))
        if finite.size == 0:
            continue
        # Pairwise update of Chan, Golub and LeVeque: stable for means far from zero.
        chunk_mean = float(finite.mean())
        total = finite_count + finite.size
        delta = chunk_mean - mean
        squares += float(np.square(finite - chunk_mean).sum()) + delta * delta * finite_count * finite.size / total
        mean += delta * finite.size / total
        finite_count = total
        lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    if finite_count == 0:
        return TensorStatistics(count, nan_count, inf_count, zero_count, None, None, None, None)
    std = math.sqrt(squares / finite_count)
    return TensorStatistics(count, nan_count, inf_count, zero_count, mean, std, lowest, highest)


def _nothing(problem: str) -> TensorStatistics:
    return TensorStatistics(0, 0, 0, 0, None, None, None, None, problem)


def value_chunks(entry: TensorEntry) -> Iterator[Values]:
    """The decoded values in order, as float64; a chunk is valid until the next one is asked for."""
    import numpy as np

    if entry.element_count == 0:
        return
    if ENCODINGS[entry.dtype].is_quantized:
        from apr.formats.apr2.dequantize import dequantize

        # A code of zero under an infinite scale raises a flag.
        with np.errstate(invalid="ignore"):
            whole = dequantize(entry.read_bytes(), entry.dtype, entry.shape, where=entry.name).reshape(-1)
        for start in range(0, whole.size, CHUNK_BYTES):
            yield whole[start : start + CHUNK_BYTES].astype(np.float64)
        return
    for chunk in entry.stream(CHUNK_BYTES):
        # Signalling NaN patterns raise a flag when they are widened; they are counted like any other NaN.
        with np.errstate(invalid="ignore"):
            values = _decoded(chunk, entry.dtype)
        yield values


def _decoded(chunk: memoryview, dtype: DType) -> Values:
    import numpy as np

    if dtype is DType.BF16:
        bits = np.frombuffer(chunk, dtype="<u2").astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    if dtype in (DType.F8_E4M3, DType.F8_E5M2, DType.F8_E8M0):
        return np.asarray(_eight_bit_values(dtype))[np.frombuffer(chunk, dtype=np.uint8)]
    return np.frombuffer(chunk, dtype=(_FLOATS | _INTEGERS)[dtype]).astype(np.float64)


def _eight_bit_values(dtype: DType) -> list[float]:
    """The value of each of the 256 codes (OCP 8-bit floating point and MX specification 1.0)."""
    if dtype is DType.F8_E8M0:
        return [2.0 ** (code - 127) for code in range(255)] + [math.nan]
    exponent_bits, bias = (4, 7) if dtype is DType.F8_E4M3 else (5, 15)
    mantissa_bits = 7 - exponent_bits
    return [_eight_bit_value(code, dtype, mantissa_bits, bias) for code in range(256)]


def _eight_bit_value(code: int, dtype: DType, mantissa_bits: int, bias: int) -> float:
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissa_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    if dtype is DType.F8_E4M3 and code & 0x7F == 0x7F:
        return math.nan
    if dtype is DType.F8_E5M2 and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
