"""How an answer looks: the only place that prints.

Commands say what they have (a document, pairs, a table, findings); the mode decides which of it is shown and how.
stdout carries the answer, stderr everything else. Text from files is escaped here, before it reaches a terminal.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

import click

from apr.errors import LONGEST_NAME_SHOWN, LONGEST_SHOWN, AprError, RefusedError, escape_control, shortened

if TYPE_CHECKING:
    from apr.cli.progress import Progress
    from apr.gates.finding import Finding

ERROR_SCHEMA = "apr.error/1"


class Mode(Enum):
    HUMAN = "human"
    JSON = "json"


class Out:
    """One command's answer. `document` is shown in JSON mode only, all other answer verbs in human mode only.

    has_answered: whether the JSON document was written, so that a later error cannot write a second one.
    """

    def __init__(self, mode: Mode = Mode.HUMAN) -> None:
        self.mode = mode
        self.has_answered = False

    @property
    def is_json(self) -> bool:
        return self.mode is Mode.JSON

    def document(self, schema: str, body: Mapping[str, Any]) -> None:
        """The whole answer as one JSON document with its `schema` first (`apr.inspect/1`)."""
        if self.is_json:
            self._write_document({"schema": schema, **body})

    def document_line(self, schema: str, body: Mapping[str, Any]) -> None:
        """One of several answers, each a JSON document on a line of its own, for commands that take many paths."""
        if self.is_json:
            self._write_document({"schema": schema, **body}, indent=None)

    def text(self, line: str = "", *, bold: bool = False, color: str | None = None) -> None:
        """One line of the answer; control characters other than the line's end are escaped."""
        if not self.is_json:
            _print(_styled(escape_control(line), bold=bold, color=color))

    def pairs(self, rows: Iterable[tuple[str, object]], *, title: str | None = None) -> None:
        """Labels and values, values aligned in one column; a None value is shown as `-`."""
        shown = [(escape_control(label), _cell(value)) for label, value in rows]
        if title is not None:
            self.text(title, bold=True)
        width = max((len(label) for label, _ in shown), default=0)
        for label, value in shown:
            self._line(f"  {label:<{width}}  {value}".rstrip())

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
        """Rows under column titles; columns named in `right` are aligned to the right."""
        cells = [[shortened(_cell(value), LONGEST_NAME_SHOWN) for value in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        to_right = {index for index, name in enumerate(columns) if name in set(right)}

        def line(row: Sequence[str]) -> str:
            padded = (
                text.rjust(width) if index in to_right else text.ljust(width)
                for index, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            return "  ".join(padded).rstrip()

        self.text(line(list(columns)), bold=True)
        for row in cells:
            self._line(line(row))

    def findings(self, findings: Iterable[Finding]) -> None:
        """Gate findings for people: mark, id and message, then both sides and the way out of each that refuses."""
        if not self.is_json:
            from apr.cli.finding_text import finding_lines

            for line in finding_lines(findings, _terminal_width(sys.stdout)):
                _print(line)

    def note(self, line: str) -> None:
        """Something worth knowing while it happens (stderr, both modes)."""
        _print(escape_control(line), to_stderr=True)

    def warning(self, line: str) -> None:
        _print(_styled("warning: ", color="yellow", bold=True) + escape_control(line), to_stderr=True)

    def hint(self, line: str) -> None:
        """The next command a user may want (stderr, both modes)."""
        _print(_styled("hint: ", color="cyan") + escape_control(line), to_stderr=True)

    @contextmanager
    def progress(self, description: str, total: int | None, unit: str = "") -> Iterator[Progress]:
        """Progress on stderr: a bar on a terminal once it took a second, a plain line per interval elsewhere."""
        from apr.cli.progress import open_progress

        with open_progress(escape_control(description), total, unit, color=_color()) as progress:
            yield progress

    def error(self, error: AprError) -> None:
        """An error of `apr`: its text with findings on stderr, or the error document on stdout in JSON mode."""
        if self.is_json and not self.has_answered:
            self._write_document({"schema": ERROR_SCHEMA, "error": error.to_json()})
            return
        _print(_styled("error: ", color="red", bold=True) + str(error), to_stderr=True)
        if isinstance(error, RefusedError):
            from apr.cli.finding_text import finding_from_json, finding_lines

            said = (error.expected, error.found, error.remedy)
            findings = (finding_from_json(each) for each in error.findings)
            unsaid = (each for each in findings if (each.expected, each.found, each.remedy) != said)
            for line in finding_lines(unsaid, _terminal_width(sys.stderr)):
                _print(line, to_stderr=True)

    def _line(self, line: str) -> None:
        if not self.is_json:
            _print(line)

    def _write_document(self, body: Mapping[str, Any], indent: int | None = 2) -> None:
        import json

        self.has_answered = True
        _print(json.dumps(plain_json(body), indent=indent, allow_nan=False, default=str))


def plain_json(value: Any) -> Any:
    """`value` with mappings, sequences and enums made plain, and NaN and infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Enum):
        return plain_json(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def human_bytes(size_bytes: int) -> str:
    """`size_bytes` in the largest binary unit that keeps it at or above 1: `2.35 GiB`."""
    size, units = float(size_bytes), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if size < 1024 or unit == units[-1]:
            return f"{size_bytes} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size_bytes} B"


def human_count(count: int) -> str:
    """`count` with thin grouping for people: `494,032,768`."""
    return f"{count:,}"


def human_duration(seconds: float) -> str:
    """`seconds` for people: `850 ms`, `12.3 s`, `4 min 05 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape_control(shortened(str(value), LONGEST_SHOWN))


def _styled(text: str, *, bold: bool = False, color: str | None = None) -> str:
    return click.style(text, fg=color, bold=bold) if bold or color else text


def _color() -> bool | None:
    """None leaves the decision to whether the stream is a terminal (https://no-color.org, FORCE_COLOR)."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def _terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal behind `stream`; None for a file or a pipe, whose lines stay whole."""
    if not (stream.isatty() or _color()):
        return None
    import shutil

    return shutil.get_terminal_size((110, 24)).columns


def _print(line: str, *, to_stderr: bool = False) -> None:
    click.echo(line, err=to_stderr, color=_color())


__all__ = ["Mode", "Out", "human_bytes", "human_count", "human_duration", "plain_json"]
