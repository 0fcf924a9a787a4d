"""The deep pass: every stored byte read once, in constant memory, for its digest and what its values show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.formats.base import TensorEntry
from apr.formats.blocks import BLOCK_RULES
from apr.formats.dtypes import ENCODINGS, DType
from apr.loading.block_values import BlockValues, whole_blocks
from apr.loading.digest import TensorDigest
from apr.loading.patterns import EqualRows, MagnitudeSample
from apr.loading.zero_runs import ZeroRun, ZeroRuns, block_words
from apr.storage.checksums import Blake3, crc32
from apr.storage.digests import StoredSums, usable_cores

if TYPE_CHECKING:
    import numpy as np

CHUNK_BYTES = 1 << 20
# Moments of larger tensors are estimated from the start of evenly spaced chunks: at most this many values of each,
# from at most this many of them.
SAMPLE_ELEMENTS_PER_CHUNK = 1 << 14
MOST_CHUNKS_SAMPLED = 16


class TensorFacts(NamedTuple):
    """What one stored tensor's bytes show.

    non_finite_count, is_all_zero, is_constant, trailing_zero_bytes (zero bytes at the end), zero_run (the longest
    stretch of zeros, of float dtypes) and has_equal_rows (all of them, of float matrices) are exact over all elements.
    Of block-quantised dtypes the scales and codes show the first two (see `has_known_values`); is_constant is False.
    The rest is over `sampled_count` elements (at most 16,384 of a chunk of 1 MiB), None for block-quantised dtypes and
    empty tensors: excess_kurtosis is 0 for a normal distribution, negative_share the part below zero, row_spread the
    standard deviation of the rows' mean squares over their mean (None with fewer than 8 whole rows). magnitudes: what
    1 %, 50 % and 99 % of the values that are not zero stay below, whatever their sign (None with fewer than 256).
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
    trailing_zero_bytes: int = 0
    excess_kurtosis: float | None = None
    negative_share: float | None = None
    row_spread: float | None = None
    zero_run: ZeroRun | None = None
    has_equal_rows: bool = False
    magnitudes: tuple[float, float, float] | None = None

    @property
    def root_mean_square(self) -> float | None:
        return None if self.mean is None or self.std is None else math.hypot(self.mean, self.std)

    @property
    def has_known_values(self) -> bool:
        """Whether anything was looked at but bytes: of a block type without rules nothing is known."""
        return not ENCODINGS[self.entry.dtype].is_quantized or self.entry.dtype in BLOCK_RULES

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
    from concurrent.futures import ThreadPoolExecutor

    ordered = sorted(entries, key=lambda entry: -entry.size_bytes)
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        return {facts.entry.name: facts for facts in pool.map(read_tensor_facts, ordered)}


def read_tensor_facts(entry: TensorEntry) -> TensorFacts:
    """Stream one tensor's bytes; raises DamagedFileError or InputOutputError when they cannot be read."""
    import numpy as np

    hasher, checksum = Blake3(), 0
    layout = _BIT_LAYOUTS.get(entry.dtype)
    word_type = np.dtype(f"<u{layout.word_bytes if layout else _integer_bytes(entry.dtype)}")
    moments = _Moments(columns=entry.shape[-1] if len(entry.shape) > 1 else 0)
    sample_every = max(1, -(-entry.size_bytes // CHUNK_BYTES) // MOST_CHUNKS_SAMPLED)
    bits = _Bits(layout, word_type, entry)
    rows, magnitudes = EqualRows(entry if layout else None), MagnitudeSample()
    blocks = BlockValues(entry) if ENCODINGS[entry.dtype].is_quantized else None
    for index, chunk in enumerate(entry.stream(CHUNK_BYTES if blocks is None else whole_blocks(entry, CHUNK_BYTES))):
        hasher.update(chunk)
        checksum = crc32(chunk, checksum)
        words = np.frombuffer(chunk, dtype=word_type)
        bits.add(words)
        if blocks is not None:
            blocks.add(chunk)
        rows.add(words)
        if index % sample_every == 0:
            sample = _as_float64(words[:SAMPLE_ELEMENTS_PER_CHUNK], entry.dtype)
            if sample is not None:
                moments.add(sample, first_element=index * (CHUNK_BYTES // word_type.itemsize))
                magnitudes.add(sample)
    return TensorFacts(
        entry=entry,
        crc32=checksum,
        blake3_hex=hasher.hexdigest(),
        non_finite_count=bits.non_finite_count if blocks is None else blocks.non_finite_count,
        is_all_zero=(entry.size_bytes > 0 and bits.trailing_zero_bytes == entry.size_bytes)
        or (blocks is not None and blocks.is_all_zero),
        is_constant=entry.element_count > 1 and bits.is_constant and not ENCODINGS[entry.dtype].is_quantized,
        sampled_count=moments.count,
        mean=moments.mean,
        std=moments.std,
        minimum=moments.minimum,
        maximum=moments.maximum,
        trailing_zero_bytes=bits.trailing_zero_bytes,
        excess_kurtosis=moments.excess_kurtosis,
        negative_share=moments.negative_share,
        row_spread=moments.row_spread,
        zero_run=bits.zeros.longest() if layout else None,
        has_equal_rows=rows.are_equal,
        magnitudes=magnitudes.quantiles() if layout else None,
    )


class _Bits:
    """What the raw words show, over every element: non-finite values, one value everywhere, stretches of zeros."""

    def __init__(self, layout: _BitLayout | None, word_type: np.dtype[Any], entry: TensorEntry) -> None:
        self.zeros = ZeroRuns(entry)
        self._block_words = block_words(entry)
        self._layout = layout
        self._word_type = word_type
        self._first: int | None = None
        self._signed_type = word_type.str.replace("u", "i")
        self.non_finite_count = 0
        self.is_constant = True

    @property
    def trailing_zero_bytes(self) -> int:
        return self.zeros.trailing_words * self._word_type.itemsize

    def add(self, words: np.ndarray[Any, Any]) -> None:
        import numpy as np

        self._first = int(words[0]) if self._first is None else self._first
        # One value everywhere can be denied by the ends of the chunk; only what stays constant is looked at whole.
        if self.is_constant and (int(words[0]) != self._first or int(words[-1]) != self._first):
            self.is_constant = False
        self.is_constant = self.is_constant and not bool(np.any(words != self._first))
        may_be_non_finite, has_zero_block = self._looked_over(words) if self._layout is not None else (False, False)
        if self._layout is not None and may_be_non_finite:
            self.non_finite_count += int(np.count_nonzero(self._magnitudes(words) > self._layout.largest_finite))
        has_zero_end = not self._magnitudes(words[-1:])[0]
        goes_on = self.zeros.trailing_words > 0 and not self._magnitudes(words[:1])[0]
        if has_zero_block or has_zero_end or goes_on:
            self.zeros.add(self._magnitudes(words))
        else:
            self.zeros.add_without_block(len(words))

    def _looked_over(self, words: np.ndarray[Any, Any]) -> tuple[bool, bool]:
        """Whether a value may be non-finite, and whether a block holds nothing but zeros.

        Two maxima in place of a masked copy: as signed words the positive peak, as unsigned the negative one. Zeros of
        either sign are what stays below the smallest value on both sides.
        """
        assert self._layout is not None
        sign, largest = self._layout.magnitude_mask + 1, self._layout.largest_finite
        whole = len(words) // self._block_words * self._block_words
        positive = unsigned = 0
        has_zero_block = False
        if whole:
            blocks = words[:whole].reshape(-1, self._block_words)
            positives, unsigneds = blocks.view(self._signed_type).max(axis=1), blocks.max(axis=1)
            positive, unsigned = int(positives.max()), int(unsigneds.max())
            has_zero_block = bool(((positives <= 0) & (unsigneds <= sign)).any())
        if whole < len(words):
            rest = words[whole:]
            positive = max(positive, int(rest.view(self._signed_type).max()))
            unsigned = max(unsigned, int(rest.max()))
        return positive > largest or unsigned > sign + largest, has_zero_block

    def _magnitudes(self, words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._layout is None:
            return words
        magnitudes: np.ndarray[Any, Any] = words & self._word_type.type(self._layout.magnitude_mask)
        return magnitudes


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
    if dtype in {DType.F8_E4M3, DType.F8_E5M2}:
        values: np.ndarray[Any, Any] = _eight_bit_values(dtype)[words]
        return values
    if dtype in {DType.I64, DType.I32, DType.I16, DType.I8}:
        return words.view(np.dtype(f"<i{words.itemsize}")).astype(np.float64)
    if dtype in {DType.U64, DType.U32, DType.U16, DType.U8, DType.BOOL}:
        return words.astype(np.float64)
    return None


@lru_cache(maxsize=2)
def _eight_bit_values(dtype: DType) -> np.ndarray[Any, Any]:
    """The value of each of the 256 codes (OCP 8-bit floating point: E4M3 has one NaN code, E5M2 is a short half)."""
    import numpy as np

    codes = np.arange(256, dtype=np.uint16)
    if dtype is DType.F8_E5M2:
        halves: np.ndarray[Any, Any] = (codes << 8).view(np.float16).astype(np.float64)
        return halves
    exponent, fraction = (codes >> 3 & 15).astype(np.float64), (codes & 7) / 8
    values = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    values[(codes & 0x7F) == 0x7F] = np.nan
    signed: np.ndarray[Any, Any] = np.where(codes >= 128, -values, values)
    return signed


class _Moments:
    """Moments, range and row norms of the finite values seen so far; sums are taken about the first sample's mean."""

    FEWEST_ROWS = 8

    def __init__(self, columns: int = 0) -> None:
        self.count = 0
        self.minimum: float | None = None
        self.maximum: float | None = None
        self._columns = columns
        self._centre: float | None = None
        self._sums = [0.0, 0.0, 0.0, 0.0]
        self._negative_count = 0
        self._row_squares: list[float] = []

    def add(self, values: np.ndarray[Any, Any], first_element: int = 0) -> None:
        """first_element: place of the first value in the tensor, from which whole rows are told."""
        import numpy as np

        if self._columns > 1:
            start = -first_element % self._columns
            rows = (len(values) - start) // self._columns
            if rows > 0:
                whole = values[start : start + rows * self._columns].reshape(rows, self._columns)
                self._row_squares += np.einsum("ij,ij->i", whole, whole).tolist()
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
        if values.size == 0:
            return
        if self._centre is None:
            self._centre = float(values.mean())
        from_centre = values - self._centre
        squares = from_centre * from_centre
        self._sums[0] += float(from_centre.sum())
        self._sums[1] += float(squares.sum())
        self._sums[2] += float((squares * from_centre).sum())
        self._sums[3] += float((squares * squares).sum())
        self.count += values.size
        self._negative_count += int(np.count_nonzero(values < 0))
        lowest, highest = float(values.min()), float(values.max())
        self.minimum = lowest if self.minimum is None else min(self.minimum, lowest)
        self.maximum = highest if self.maximum is None else max(self.maximum, highest)

    @property
    def mean(self) -> float | None:
        return None if self._centre is None else self._centre + self._sums[0] / self.count

    @property
    def _variance(self) -> float:
        return max(0.0, self._sums[1] / self.count - (self._sums[0] / self.count) ** 2)

    @property
    def std(self) -> float | None:
        return math.sqrt(self._variance) if self.count else None

    @property
    def excess_kurtosis(self) -> float | None:
        if not self.count or not self._variance:
            return None
        shift, second, third, fourth = (each / self.count for each in self._sums)
        central = fourth - 4 * shift * third + 6 * shift**2 * second - 3 * shift**4
        return central / self._variance**2 - 3

    @property
    def negative_share(self) -> float | None:
        return self._negative_count / self.count if self.count else None

    @property
    def row_spread(self) -> float | None:
        rows = self._row_squares
        mean = sum(rows) / len(rows) if len(rows) >= self.FEWEST_ROWS else 0.0
        if not mean or not math.isfinite(mean):
            return None
        return math.sqrt(sum((each - mean) ** 2 for each in rows) / len(rows)) / mean
