"""Where the text of a printed line begins, so that a line too long for its place goes on below its own text."""

from __future__ import annotations

import re

DEEPEST_COLUMN = 21
_LABELS = re.compile(
    r"\s*(?:\$ |error: |warning: |hint: |(?:REFUSED|ok|unchecked)\s+|(?:where|expected|found|next):\s+)?", re.ASCII
)


def text_column(line: str) -> int:
    """The column at which the text of `line` begins, after its indentation and its label; at most 21."""
    found = _LABELS.match(line)
    return min(found.end() if found else 0, DEEPEST_COLUMN)
