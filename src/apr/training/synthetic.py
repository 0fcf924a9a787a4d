"""Made-up tokens for timing a run without a corpus; every record of such a run says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr.training.data import RunData, TrainingWindows, ValidationSet, validation_hash
from apr.training.windows import WindowedShards

if TYPE_CHECKING:
    import numpy

WINDOWS = 4096
DEFAULT_VALIDATION_WINDOWS = 16


class SyntheticWindows(WindowedShards):
    """WINDOWS windows of uniformly random ids, each a pure function of (seed, number)."""

    def __init__(self, sequence_length: int, vocabulary_rows: int, seed: int) -> None:
        super().__init__((), sequence_length)
        self._rows, self._seed = vocabulary_rows, seed

    def __len__(self) -> int:
        return WINDOWS

    def read(self, indices: numpy.ndarray) -> numpy.ndarray:
        import numpy

        drawn = [
            numpy.random.default_rng((self._seed, int(index))).integers(0, self._rows, self.window_tokens)
            for index in indices
        ]
        return numpy.asarray(drawn, dtype=numpy.int64).reshape(len(drawn), self.window_tokens)


def open_synthetic_data(
    sequence_length: int, vocabulary_rows: int, seed: int, validation_windows: int | None
) -> RunData:
    """Training and validation windows of made-up tokens; the two share no window."""
    import numpy

    windows = SyntheticWindows(sequence_length, vocabulary_rows, seed)
    held_out = numpy.arange(min(validation_windows or DEFAULT_VALIDATION_WINDOWS, WINDOWS // 2), dtype=numpy.int64)
    validation = ValidationSet(windows, held_out, "made-up tokens", validation_hash(windows, held_out))
    return RunData(TrainingWindows(windows, held_out, seed, "synthetic"), validation, is_split_by_document=False)
