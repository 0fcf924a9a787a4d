"""`apr` beside Lightning: a callback that stops `fit` before the first step unless the named weights are resident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apr.library.lightning_callback import VerifyCallbackMethods as VerifyCallback

__all__ = ["VerifyCallback"]


def __getattr__(name: str) -> Any:
    if name == "VerifyCallback":
        from apr.library.lightning_callback import callback_class

        return callback_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
