"""The one rendering of gate findings for people, used by preflight, pretrain, stamp and every refusal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from apr.errors import LONGEST_SHOWN, shown_lines

if TYPE_CHECKING:
    from apr.gates.finding import Finding

MARKS = {"pass": ("ok", "green"), "refuse": ("REFUSED", "red"), "unchecked": ("unchecked", "yellow")}
INDENT = " " * 10
LABEL_WIDTH = 11
BESIDE_LABELS = "  "
"""What a message goes on behind, so that no name in it that is wrapped stands where a label does."""
NARROWEST = 60


def finding_lines(findings: Iterable[Finding], width: int | None = None) -> Iterator[str]:
    """Mark, id and message of each finding; of one that does not pass also both sides and the way out.

    width: columns to wrap at, None for none (a log is searched by line). Commands are never wrapped: they are copied.
    """
    for finding in findings:
        mark, color = MARKS[finding.status.value]
        is_refusal = mark == "REFUSED"
        styled = click.style(f"{mark:<9}", fg=color, bold=is_refusal)
        message = _wrapped(f"{finding.id}  {finding.message}", width, INDENT + BESIDE_LABELS)
        yield f"{styled} {message}"
        if mark == "ok":
            continue
        for label, value in (("expected", finding.expected), ("found", finding.found)):
            if value is not None:
                yield f"{INDENT}{label + ':':<{LABEL_WIDTH}}{_wrapped(value, width, INDENT + ' ' * LABEL_WIDTH)}"
        if finding.remedy is not None:
            command = _wrapped(finding.remedy, None, INDENT + " " * LABEL_WIDTH, longest=None)
            yield f"{INDENT}{'next:':<{LABEL_WIDTH}}{command}"


def finding_from_json(document: Mapping[str, Any]) -> Finding:
    """A finding from its JSON form (`Finding.to_json`), as errors carry it."""
    from apr.gates.finding import Finding, Status

    return Finding(**{**document, "status": Status(document["status"])})


def _wrapped(text: str, width: int | None, indent: str, longest: int | None = LONGEST_SHOWN) -> str:
    """`text` escaped line by line, continuation lines under `indent`; words are never broken."""
    lines = shown_lines(text, longest)
    if width is not None:
        import textwrap

        room = max(width, NARROWEST) - len(indent)
        lines = [
            part
            for line in lines
            for part in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
        ]
    return f"\n{indent}".join(lines)
