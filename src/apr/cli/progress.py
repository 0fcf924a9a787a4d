"""Progress of long work on stderr: a bar where somebody watches, a plain line per interval where a log is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apr.errors import escape_control

BAR_AFTER_S = 1.0
LINE_EVERY_S = 10.0


class Progress:
    """Counts units of work done. `advance` may be called often: it looks at the clock and seldom draws."""

    def __init__(self, draw: Callable[[int, str], None], first_after_s: float, every_s: float) -> None:
        self._draw, self._every_s = draw, every_s
        self._next_s = time.monotonic() + first_after_s
        self.done = 0
        self.detail = ""

    def advance(self, count: int = 1, detail: str | None = None) -> None:
        """`count` more units are done; `detail` replaces the text at the end of the line."""
        self.done += count
        if detail is not None:
            self.detail = escape_control(detail)
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            self._draw(self.done, self.detail)


@contextmanager
def open_progress(description: str, total: int | None, unit: str, *, color: bool | None) -> Iterator[Progress]:
    """Progress over `total` units (None: unknown); a bar only if stderr is a terminal and a second has passed."""
    if sys.stderr.isatty():
        bar = _Bar(description, total, unit, color=color)
        try:
            yield Progress(bar.draw, BAR_AFTER_S, 0.1)
        finally:
            bar.close()
    else:
        yield Progress(_line_drawer(description, total, unit), LINE_EVERY_S, LINE_EVERY_S)


class _Bar:
    """A rich progress bar that is imported and drawn only when the first `draw` comes."""

    def __init__(self, description: str, total: int | None, unit: str, *, color: bool | None) -> None:
        self._description, self._total, self._unit, self._color = description, total, unit, color
        self._close: Callable[[], None] | None = None
        self._update: Callable[[int, str], None] = self._open

    def _open(self, done: int, detail: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %" if self._total else "{task.completed} " + self._unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(stderr=True, no_color=self._color is False),
            transient=True,
        )
        task = bar.add_task(self._description, total=self._total, completed=done, detail=detail)
        bar.start()
        self._close = bar.stop
        self._update = lambda done, detail: bar.update(task, completed=done, detail=detail)

    def draw(self, done: int, detail: str) -> None:
        self._update(done, detail)

    def close(self) -> None:
        if self._close is not None:
            self._close()


def _line_drawer(description: str, total: int | None, unit: str) -> Callable[[int, str], None]:
    started_s = time.monotonic()

    def draw(done: int, detail: str) -> None:
        elapsed_s = time.monotonic() - started_s
        if total:
            remaining_s = elapsed_s / done * (total - done) if done else float("nan")
            share = f"{100 * done / total:.0f} % of {total:,} {unit}, about {remaining_s:.0f} s left"
        else:
            share = f"{done:,} {unit}"
        sys.stderr.write(f"{description}: {share}{'  ' + detail if detail else ''}\n")

    return draw
