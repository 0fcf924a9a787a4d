"""The deep pass: every stored byte read once, in constant memory, for its digest and what its values show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.formats.base import TensorEntry
from apr.formats.dtypes import ENCODINGS, DType
from apr.loading.digest import TensorDigest
from apr.storage.checksums import Blake3, crc32
from apr.storage.digests import StoredSums, usable_cores

if TYPE_CHECKING:
    import numpy as np

CHUNK_BYTES = 1 << 20
# Mean and standard deviation of larger tensors are estimated from the start of every chunk, at most this many values.
SAMPLE_ELEMENTS_PER_CHUNK = 1 << 14


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What one stored tensor's bytes show.

    non_finite_count, is_all_zero and is_constant are exact over all elements. mean, std, minimum, maximum are over
    `sampled_count` elements (at most 16,384 a chunk of 1 MiB), None for block-quantised dtypes and empty tensors.
    """

    entry: TensorEntry
    crc32: int
    blake3_hex: str
    non_finite_count: int
    is_all_zero: bool
    is_constant: bool
    sampled_count: int
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None

    @property
    def sums(self) -> StoredSums:
        return StoredSums(self.crc32, self.blake3_hex)

    @property
    def digest(self) -> TensorDigest:
        return TensorDigest(self.entry.name, self.entry.dtype, self.entry.shape, self.blake3_hex)


@dataclass(frozen=True, slots=True)
class _BitLayout:
    """How to see non-finite values in the raw bits: magnitudes above `largest_finite` are NaN or infinite."""

    word_bytes: int
    magnitude_mask: int
    largest_finite: int


# IEEE 754 and OCP FP8 (E4M3FN has no infinity, one NaN code) bit layouts.
_BIT_LAYOUTS: dict[DType, _BitLayout] = {
    DType.F64: _BitLayout(8, 0x7FFF_FFFF_FFFF_FFFF, 0x7FEF_FFFF_FFFF_FFFF),
    DType.F32: _BitLayout(4, 0x7FFF_FFFF, 0x7F7F_FFFF),
    DType.F16: _BitLayout(2, 0x7FFF, 0x7BFF),
    DType.BF16: _BitLayout(2, 0x7FFF, 0x7F7F),
    DType.F8_E4M3: _BitLayout(1, 0x7F, 0x7E),
    DType.F8_E5M2: _BitLayout(1, 0x7F, 0x7B),
}


def read_values(entries: Iterable[TensorEntry]) -> dict[str, TensorFacts]:
    """The facts of every entry, by name, on all cores; memory stays at a few chunks per thread."""
    ordered = sorted(entries, key=lambda entry: -entry.size_bytes)
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        return {facts.entry.name: facts for facts in pool.map(read_tensor_facts, ordered)}


def read_tensor_facts(entry: TensorEntry) -> TensorFacts:
    """Stream one tensor's bytes; raises DamagedFileError or InputOutputError when they cannot be read."""
    import numpy as np

    hasher, checksum = Blake3(), 0
    layout = _BIT_LAYOUTS.get(entry.dtype)
    moments = _Moments()
    non_finite, largest_bits = 0, 0
    first_word: int | None = None
    is_constant = True
    word_type = np.dtype(f"<u{layout.word_bytes if layout else _integer_bytes(entry.dtype)}")
    for chunk in entry.stream(CHUNK_BYTES):
        hasher.update(chunk)
        checksum = crc32(chunk, checksum)
        words = np.frombuffer(chunk, dtype=word_type)
        lowest, highest = int(words.min()), int(words.max())
        first_word = lowest if first_word is None else first_word
        is_constant = is_constant and lowest == highest == first_word
        if layout is None:
            largest_bits = max(largest_bits, highest)
        else:
            magnitudes = words & word_type.type(layout.magnitude_mask)
            peak = int(magnitudes.max())
            largest_bits = max(largest_bits, peak)
            if peak > layout.largest_finite:
                non_finite += int(np.count_nonzero(magnitudes > layout.largest_finite))
        sample = _as_float64(words[:SAMPLE_ELEMENTS_PER_CHUNK], entry.dtype)
        if sample is not None:
            moments.add(sample)
    return TensorFacts(
        entry=entry,
        crc32=checksum,
        blake3_hex=hasher.hexdigest(),
        non_finite_count=non_finite,
        is_all_zero=entry.size_bytes > 0 and largest_bits == 0,
        is_constant=entry.element_count > 1 and is_constant and not ENCODINGS[entry.dtype].is_quantized,
        sampled_count=moments.count,
        mean=moments.mean,
        std=moments.std,
        minimum=moments.minimum,
        maximum=moments.maximum,
    )


def _integer_bytes(dtype: DType) -> int:
    encoding = ENCODINGS[dtype]
    return 1 if encoding.is_quantized else encoding.block_bytes


def _as_float64(words: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any] | None:
    """Raw little-endian words as values; None for dtypes whose values need more than one word."""
    import numpy as np

    if dtype is DType.BF16:
        return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in {DType.F64, DType.F32, DType.F16}:
        return words.view(np.dtype(f"<f{words.itemsize}")).astype(np.float64)
    if dtype in {DType.I64, DType.I32, DType.I16, DType.I8}:
        return words.view(np.dtype(f"<i{words.itemsize}")).astype(np.float64)
    if dtype in {DType.U64, DType.U32, DType.U16, DType.U8, DType.BOOL}:
        return words.astype(np.float64)
    return None


class _Moments:
    """Count, mean, standard deviation and range of the finite values seen so far (Chan et al. pairwise update)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0
        self.minimum: float | None = None
        self.maximum: float | None = None

    def add(self, values: np.ndarray[Any, Any]) -> None:
        import numpy as np

        values = values[np.isfinite(values)]
        if values.size == 0:
            return
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        delta, total = mean - self._mean, self.count + values.size
        self._squares += squares + delta * delta * self.count * values.size / total
        self._mean += delta * values.size / total
        self.count = total
        lowest, highest = float(values.min()), float(values.max())
        self.minimum = lowest if self.minimum is None else min(self.minimum, lowest)
        self.maximum = highest if self.maximum is None else max(self.maximum, highest)

    @property
    def mean(self) -> float | None:
        return self._mean if self.count else None

    @property
    def std(self) -> float | None:
        return math.sqrt(self._squares / self.count) if self.count else None
