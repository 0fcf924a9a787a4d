"""How a format reader says that a file is damaged: always with the place, both sides and a way out."""

from __future__ import annotations

from pathlib import Path

from apr.errors import LONGEST_NAME_SHOWN, DamagedFileError, shortened

FILE_INTEGRITY = "INV-FILE-INTEGRITY-001"
MAGIC_VALID = "FALSIFY-APR-PRETRAIN-INIT-004"

_LONGEST_SIDE = 1000
"""Characters that are shown of a value from a file."""

FETCH_AGAIN = "fetch or write the file again from an intact source"


def damaged(
    what: str,
    *,
    path: Path,
    expected: str,
    found: str,
    offset_bytes: int | None = None,
    place: str | None = None,
    invariant: str = FILE_INTEGRITY,
    remedy: str = FETCH_AGAIN,
) -> DamagedFileError:
    """The error for bytes of `path` that contradict the format; `place` names a part of it, `offset_bytes` a byte."""
    where = str(path)
    if place is not None:
        where += f": {shortened(place, LONGEST_NAME_SHOWN)}"
    if offset_bytes is not None:
        where += f" at byte {offset_bytes}"
    expected, found = shortened(expected, _LONGEST_SIDE), shortened(found, _LONGEST_SIDE)
    return DamagedFileError(what, where=where, expected=expected, found=found, invariant=invariant, remedy=remedy)
