"""What the blocks of a quantised tensor show without being decoded: values that are not finite, or only zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.formats.base import TensorEntry
from apr.formats.blocks import BLOCK_RULES, Alternatives
from apr.formats.dtypes import ENCODINGS

if TYPE_CHECKING:
    import numpy as np

    Codes = np.ndarray[Any, np.dtype[np.uint8]]


def whole_blocks(entry: TensorEntry, chunk_bytes: int) -> int:
    """The size of a chunk of about `chunk_bytes` that ends where a block of `entry` does."""
    block_bytes = ENCODINGS[entry.dtype].block_bytes
    return max(1, chunk_bytes // block_bytes) * block_bytes


class BlockValues:
    """Counts over the blocks of one tensor, chunk by chunk in their order, each of whole blocks.

    non_finite_count: values in blocks whose scale is NaN or infinite. is_all_zero: whether every value so far is zero.
    A tensor of a block type without rules is never either.
    """

    def __init__(self, entry: TensorEntry) -> None:
        self._entry = entry
        self._encoding = ENCODINGS[entry.dtype]
        self._rules = BLOCK_RULES.get(entry.dtype)
        self._prefix_bytes_left = self._encoding.prefix_bytes
        self._is_zero_by_prefix = False
        self._are_blocks_zero = self._rules is not None and entry.element_count > 0
        self.non_finite_count = 0

    @property
    def is_all_zero(self) -> bool:
        return self._is_zero_by_prefix or self._are_blocks_zero

    def add(self, chunk: memoryview) -> None:
        import numpy as np

        if self._rules is None:
            return
        codes = np.frombuffer(chunk, np.uint8)
        if self._prefix_bytes_left:
            # It is a few bytes, and chunks are longer.
            prefix, codes = codes[None, : self._prefix_bytes_left], codes[self._prefix_bytes_left :]
            self._prefix_bytes_left = 0
            if _holds(self._rules.prefix_not_finite, prefix).any():
                self.non_finite_count = self._entry.element_count
            self._is_zero_by_prefix = bool(_holds(self._rules.prefix_zero, prefix).all())
        size = self._encoding.block_bytes
        blocks = codes[: len(codes) // size * size].reshape(-1, size)
        if self._rules.not_finite:
            count = int(np.count_nonzero(_holds(self._rules.not_finite, blocks)))
            self.non_finite_count += count * self._encoding.block_elements
        if self._are_blocks_zero:
            # The first block of nearly every tensor denies it.
            first = _holds(self._rules.zero, blocks[:1])
            self._are_blocks_zero = bool(first.all()) and bool(_holds(self._rules.zero, blocks).all())


def _holds(alternatives: Alternatives, blocks: Codes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each block whether one of `alternatives` holds."""
    import numpy as np

    found = np.zeros(len(blocks), np.bool_)
    for together in alternatives:
        holds = np.ones(len(blocks), np.bool_)
        for start, stop, value, mask in together:
            wanted = (blocks[:, start:stop] & np.uint8(mask)) == value
            holds &= wanted[:, 0] if stop - start == 1 else wanted.all(axis=1)
        found |= holds
    return found
