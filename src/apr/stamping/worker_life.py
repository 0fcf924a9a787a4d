"""A worker of a fleet ends with the process that made it, and cleans up first: what it was stamping is taken back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# linux/prctl.h: the signal that this process gets when the one that made it has ended.
_SET_PARENT_DEATH_SIGNAL = 1

_parent: int | None = None
_is_busy = False
_is_asked_to_end = False


def begin(parent: int) -> None:
    """Called in a new worker of the process `parent`: from now on it ends at SIGINT and SIGTERM, and with `parent`.

    Where the system tells nobody of the death of a parent (it is Linux that does), that is looked at before each task.
    """
    global _parent
    _parent = parent
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ask_to_end)
    with suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    _end_without_parent()


@contextmanager
def task() -> Iterator[None]:
    """Around one task: the first signal within it interrupts it, so that it cleans up, and then the worker ends."""
    global _is_busy
    _end_without_parent()
    _is_busy = True
    try:
        yield
    finally:
        _is_busy = False
        if _is_asked_to_end:
            _end()


def _ask_to_end(_number: int, _frame: FrameType | None) -> None:
    global _is_asked_to_end
    if not _is_busy:
        _end()
    if not _is_asked_to_end:  # Whoever comes second must not interrupt the cleaning up.
        _is_asked_to_end = True
        raise KeyboardInterrupt


def _end_without_parent() -> None:
    if _parent is not None and os.getppid() != _parent:
        _end()


def _end() -> None:
    """End this process here, as a process ends that does not handle SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
