"""Keep the model zoo's own log lines and progress bars off the terminal: the ledger and the receipt speak instead."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_depth = 0
_former = ExitStack()


@contextmanager
def quiet_zoo() -> Iterator[None]:
    """Within the block, transformers logs errors only and draws no bars; the former state comes back afterwards.

    That state is one for the whole process: the first of several threads sets it, the last one gives it back.
    """
    global _depth, _former
    with _lock:
        if _depth == 0:
            _former = _silenced()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _former.close()


def _silenced() -> ExitStack:
    """What brings the former state back when it is closed."""
    from transformers.utils import logging

    former = ExitStack()
    former.callback(logging.set_verbosity, logging.get_verbosity())
    if logging.is_progress_bar_enabled():
        former.callback(logging.enable_progress_bar)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    former.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    return former
