"""What was last derived from one object, kept for as long as that object is the one that is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Derived = TypeVar("Derived")


class Latest(Generic[Source, Derived]):
    """One answer, found again by the identity of what it was derived from, which nobody may change."""

    def __init__(self) -> None:
        self._kept: tuple[Source, Derived] | None = None

    def get(self, source: Source, derive: Callable[[], Derived]) -> Derived:
        """The answer for `source`, derived when another object was asked about last."""
        kept = self._kept
        if kept is None or kept[0] is not source:
            kept = (source, derive())
            self._kept = kept
        return kept[1]
