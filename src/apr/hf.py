"""`apr` beside transformers: a strict `from_pretrained`, a block in which every one is strict, a `Trainer` callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.library.strict import from_pretrained, strict

if TYPE_CHECKING:
    from apr.library.trainer_callback import VerifyCallback

__all__ = ["VerifyCallback", "from_pretrained", "strict"]


def __getattr__(name: str) -> Any:
    if name == "VerifyCallback":
        from apr.library.trainer_callback import VerifyCallback

        return VerifyCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
