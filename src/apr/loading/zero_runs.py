"""Stretches of zeros in a tensor whose words go by once: the longest one, and the one at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.formats.base import TensorEntry
from apr.loading.roles import holds_experts

if TYPE_CHECKING:
    import numpy as np

# A stretch shorter than this part of its slice is not kept.
SHORTEST_SHARE = 0.2
BLOCKS_PER_SLICE = 32
FEWEST_BLOCK_WORDS, MOST_BLOCK_WORDS = 32, 8192


class ZeroRun(NamedTuple):
    """A stretch of zeros within one slice of a tensor. start, stop: elements of the tensor; share: of the slice.

    cuts_a_row: whether it begins or ends well inside a row, so that no choice of rows explains it. zeros_beside: the
    part of its neighbourhood, to a chunk, that is zero as well; 0 where the matrix is dense.
    """

    start: int
    stop: int
    share: float
    cuts_a_row: bool
    zeros_beside: float


def slice_elements(entry: TensorEntry) -> int:
    """Elements of the part that zeros are measured against: one expert where a tensor holds them all."""
    return math.prod(entry.shape[1:] if holds_experts(entry) else entry.shape)


def block_words(entry: TensorEntry) -> int:
    """Words that are looked at in one go: few enough that a stretch worth keeping holds a whole block."""
    return max(FEWEST_BLOCK_WORDS, min(MOST_BLOCK_WORDS, slice_elements(entry) // BLOCKS_PER_SLICE))


class ZeroRuns:
    """Fed chunk by chunk. Exact for stretches that hold a whole block, and for the one at the end."""

    def __init__(self, entry: TensorEntry) -> None:
        self._slice = max(1, slice_elements(entry))
        self._columns = entry.shape[-1] if len(entry.shape) > 1 else 1
        self._shortest = max(1, int(SHORTEST_SHARE * self._slice))
        self._seen = 0
        self._last_nonzero = -1
        self._longest: tuple[int, int] | None = None
        self._looked_at = self._zeros = 0

    @property
    def trailing_words(self) -> int:
        return self._seen - 1 - self._last_nonzero

    def add(self, magnitudes: np.ndarray[Any, Any]) -> None:
        """Words of which any may be zero; a zero has magnitude 0 whatever its sign."""
        import numpy as np

        nonzero = np.flatnonzero(magnitudes)
        self._looked_at += len(magnitudes)
        self._zeros += len(magnitudes) - len(nonzero)
        edges = np.concatenate(([self._last_nonzero], nonzero + self._seen))
        for index in np.flatnonzero(np.diff(edges) > self._shortest):
            self._note(int(edges[index]) + 1, int(edges[index + 1]))
        self._last_nonzero = int(edges[-1])
        self._seen += len(magnitudes)

    def add_without_block(self, count: int) -> None:
        """Words without a block of zeros that begin and end in something else."""
        if self.trailing_words:
            self._note(self._last_nonzero + 1, self._seen)
        self._seen += count
        self._last_nonzero = self._seen - 1

    def longest(self) -> ZeroRun | None:
        """The stretch that takes most of a slice, after the last chunk."""
        if self.trailing_words:
            self._note(self._last_nonzero + 1, self._seen)
        if self._longest is None:
            return None
        start, stop = self._longest
        # Zeros that a row has beside a lost or a pruned one lengthen the stretch a little.
        inside = max(-start % self._columns, stop % self._columns)
        beside = self._looked_at - (stop - start)
        return ZeroRun(
            start,
            stop,
            share=(stop - start) / self._slice,
            cuts_a_row=inside > self._columns / 4,
            zeros_beside=(self._zeros - (stop - start)) / beside if beside > 0 else 0.0,
        )

    def _note(self, start: int, stop: int) -> None:
        first, last = start // self._slice, (stop - 1) // self._slice
        parts = [(start, min(stop, (first + 1) * self._slice)), (max(start, last * self._slice), stop)]
        if last - first > 1:
            parts.append(((first + 1) * self._slice, (first + 2) * self._slice))
        longest = max(parts, key=lambda part: part[1] - part[0])
        if longest[1] - longest[0] >= max(self._shortest, self._length(self._longest) + 1):
            self._longest = longest

    @staticmethod
    def _length(part: tuple[int, int] | None) -> int:
        return 0 if part is None else part[1] - part[0]
