"""How a format reader says that a file is damaged: always with the place, both sides and a way out."""

from __future__ import annotations

from pathlib import Path

from apr.errors import DamagedFileError

FILE_INTEGRITY = "INV-FILE-INTEGRITY-001"
MAGIC_VALID = "FALSIFY-APR-PRETRAIN-INIT-004"

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
        where += f": {place}"
    if offset_bytes is not None:
        where += f" at byte {offset_bytes}"
    return DamagedFileError(what, where=where, expected=expected, found=found, invariant=invariant, remedy=remedy)
