"""Is it still the same file? Another program may write it, or give its name to another file, at any time."""

from __future__ import annotations

import os
from pathlib import Path

from apr.errors import InputOutputError
from apr.storage.patches import FileId, FilePatch


class FileChangedError(InputOutputError):
    """Another program changed the file between reading and writing: read it again."""


def file_id(descriptor: int) -> FileId:
    """Which file the open `descriptor` is of, as it is now."""
    return _id_of(os.fstat(descriptor))


def file_id_at(path: Path) -> FileId | None:
    """Which file stands at `path` (a link is not followed); None where nothing does."""
    try:
        return _id_of(os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None


def check_unchanged(descriptor: int, patch: FilePatch, path: Path) -> None:
    """Raise FileChangedError unless the file at `path`, open as `descriptor`, is as when `patch` was planned."""
    there = file_id(descriptor)
    if there.size_bytes != patch.size_bytes:
        raise changed(path, f"{patch.size_bytes} bytes", f"{there.size_bytes} bytes")
    if patch.source is not None and there != patch.source:
        raise changed(path, "the file it was", "another, or one written again")
    for splice in patch.splices:
        if os.pread(descriptor, len(splice.old), splice.old_offset_bytes) != splice.old:
            raise changed(path, f"the bytes that stood at {splice.old_offset_bytes}", "other bytes")


def check_stands_there(descriptor: int, path: Path) -> None:
    """Raise FileChangedError unless the file that is open as `descriptor` is the one at `path`."""
    mine = os.fstat(descriptor)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        raise changed(path, "the file that was opened there", "nothing" if there is None else "another file")


def changed(path: Path, expected: str, found: str) -> FileChangedError:
    """The error for a file at `path` that another program changed."""
    return FileChangedError(
        "the file changed while it was being stamped",
        where=str(path),
        expected=expected,
        found=found,
        remedy="let the other program finish, then run again; what it wrote is kept",
    )


def _id_of(status: os.stat_result) -> FileId:
    return FileId(status.st_ino, status.st_mtime_ns, status.st_size)
