"""Telling a caller how far a job over many bytes has come; the core itself never prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from apr.formats.base import TensorEntry
from apr.formats.writing import TensorToWrite, copy_of

Report = Callable[[int, int], None]
"""Called with the bytes done since the last call, and the bytes the whole job will take."""


class Meter:
    """Counts the bytes of one job that passes over the same `size_bytes` `passes` times, and reports them."""

    def __init__(self, report: Report | None, size_bytes: int, passes: int) -> None:
        self._report = report
        self._total_bytes = size_bytes * passes

    def add(self, count_bytes: int) -> None:
        if self._report is not None:
            self._report(count_bytes, self._total_bytes)

    def copy_of(self, entry: TensorEntry) -> TensorToWrite:
        """The stored tensor `entry` for a writer, counted while its bytes are written."""
        tensor = copy_of(entry)

        def chunks() -> Iterator[object]:
            for chunk in tensor.chunks():
                yield chunk
                self.add(memoryview(chunk).nbytes)

        return TensorToWrite(tensor.name, tensor.dtype, tensor.shape, chunks, tensor.declared_size_bytes)  # type: ignore[arg-type]


UNMETERED = Meter(None, 0, 0)
