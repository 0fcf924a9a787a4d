"""Work that tells how far it is: its notes as lines, its units as progress that opens when their number is known."""

from __future__ import annotations

from contextlib import ExitStack

from apr.cli.out import Out
from apr.cli.progress import Progress


class Watcher:
    """What a long command hands to the work it starts. `stack` closes the progress with the command."""

    def __init__(self, out: Out, stack: ExitStack) -> None:
        self._out, self._stack = out, stack
        self._progress: Progress | None = None

    def note(self, text: str) -> None:
        self._out.note(text)

    def open(self, description: str, total: int, unit: str) -> None:
        """Show progress over `total` units from now on."""
        self._progress = self._stack.enter_context(self._out.progress(description, total, unit))

    def advance(self, count: int = 1, detail: str | None = None) -> None:
        """`count` more units are done; nothing is shown before `open`."""
        if self._progress is not None:
            self._progress.advance(count, detail)
