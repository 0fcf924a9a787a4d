"""Patterns in a tensor whose words go by once: rows that are all alike, and how large its values are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.formats.base import TensorEntry

if TYPE_CHECKING:
    import numpy as np

FEWEST_EQUAL_ROWS = 2
VALUES_SAMPLED_PER_CHUNK = 1024
FEWEST_MAGNITUDES = 256
PERCENTS = (1, 50, 99)
# A row is kept whole to hold the others against it.
LONGEST_ROW_BYTES = 1 << 20


class EqualRows:
    """Whether every row of a matrix holds the same bytes. It costs something only while that is still so.

    entry: None for a tensor of which nobody asks.
    """

    def __init__(self, entry: TensorEntry | None) -> None:
        shape = entry.shape if entry is not None else ()
        self._columns = shape[-1] if len(shape) > 1 else 0
        self._rows = entry.element_count // self._columns if entry is not None and self._columns else 0
        self._row: np.ndarray[Any, Any] | None = None
        self._seen = 0
        self._may_be_equal = self._columns > 1 and self._rows >= FEWEST_EQUAL_ROWS

    @property
    def are_equal(self) -> bool:
        return self._may_be_equal and self._seen == self._columns * self._rows

    def add(self, words: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if not self._may_be_equal:
            return
        if self._row is None:
            if len(words) < self._columns or self._columns * words.itemsize > LONGEST_ROW_BYTES:
                self._may_be_equal = False
                return
            self._row = words[: self._columns].copy()
        second = words[self._columns : 2 * self._columns]
        if self._seen == 0 and not np.array_equal(second, self._row[: len(second)]):
            self._may_be_equal = False
            return
        expected = np.resize(np.roll(self._row, -(self._seen % self._columns)), len(words))
        self._may_be_equal = np.array_equal(words, expected)
        self._seen += len(words)


class MagnitudeSample:
    """How large the values that are not zero are, from a few of each chunk."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray[Any, Any]] = []

    def add(self, values: np.ndarray[Any, Any]) -> None:
        import numpy as np

        # An odd stride comes past every column of a matrix, whose width is even.
        part = np.abs(values[:: max(1, len(values) // VALUES_SAMPLED_PER_CHUNK) | 1])
        self._parts.append(part[(part > 0) & np.isfinite(part)])

    def quantiles(self) -> tuple[float, float, float] | None:
        """The magnitudes that 1 %, 50 % and 99 % stay below; None with too few values to say."""
        import numpy as np

        ordered = np.sort(np.concatenate(self._parts)) if self._parts else np.empty(0)
        if len(ordered) < FEWEST_MAGNITUDES:
            return None
        low, middle, high = (float(ordered[(len(ordered) - 1) * percent // 100]) for percent in PERCENTS)
        return low, middle, high
