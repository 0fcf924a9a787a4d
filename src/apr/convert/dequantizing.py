"""Block-quantised APR tensors as plain floats, for readers that know no blocks; only when the user asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from apr.errors import RefusedError
from apr.formats.apr2.dequantize import dequantize
from apr.formats.base import TensorEntry
from apr.formats.dtypes import ENCODINGS, DType
from apr.formats.writing import TensorToWrite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT_DTYPES: dict[str, DType] = {"float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16}
"""What `--dequantize` accepts, by the names of torch."""


def is_quantized(entry: TensorEntry) -> bool:
    return ENCODINGS[entry.dtype].is_quantized


def dequantized(entry: TensorEntry, dtype: DType) -> TensorToWrite:
    """The quantised tensor `entry` as `dtype` (one of FLOAT_DTYPES), made when it is written; one tensor in memory."""

    def chunks() -> Iterable[bytes]:
        values = dequantize(entry.read_bytes(), entry.dtype, entry.shape, where=f"tensor {entry.name}")
        yield rounded_bytes(values, dtype, entry.name)

    return TensorToWrite(entry.name, dtype, entry.shape, chunks)


def rounded_bytes(values: NDArray[np.float32], dtype: DType, name: str) -> bytes:
    """float32 `values` as little-endian bytes of `dtype`, rounded to nearest, ties to even.

    Raises RefusedError when a finite value becomes infinite: float16 ends at 65,504.
    """
    import numpy as np

    if dtype is DType.F32:
        return values.astype("<f4").tobytes()
    with np.errstate(over="ignore"):
        halves = values.astype("<f2") if dtype is DType.F16 else _bfloat16_bits(values)
    is_finite = np.isfinite(halves) if dtype is DType.F16 else (halves & 0x7F80) != 0x7F80
    if bool((np.isfinite(values) & ~is_finite).any()):
        raise RefusedError(
            f"a value of a tensor does not fit into {dtype}",
            where=f"tensor {name}",
            expected=f"values within the range of {dtype}",
            found=f"up to {float(np.abs(values[np.isfinite(values)]).max()):g}",
            remedy="--dequantize float32",
        )
    return halves.tobytes()


def _bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of the float32 bits after rounding; NaN stays NaN."""
    import numpy as np

    bits = values.astype("<f4").view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x0040)
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")
