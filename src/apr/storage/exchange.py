"""A changed copy takes the place of a file, and gives it back: in one step, or in renames that can be cut off anywhere.

Once the journal is whole the copy stands beside the file. Then both change places; the old file goes when the change
is final. What was done shows in sizes and names alone: the copy is longer than the file by the room made in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from apr.storage import operations
from apr.storage.copying import copy_patched
from apr.storage.journal import NEW_SUFFIX, aside_of, new_beside
from apr.storage.locking import lock_exclusive
from apr.storage.patches import FilePatch


def write_beside(directory: Path, source: int, patch: FilePatch) -> int:
    """The descriptor of the changed copy of `source`, synced, with its mode and owner, and locked until it is closed.

    It is locked because it will stand in the place of the file before the change is final.
    """
    beside = new_beside(directory / patch.name)
    operations.remove(beside)
    status = os.fstat(source)
    mode = stat.S_IMODE(status.st_mode)
    descriptor = operations.create(beside, mode)
    try:
        lock_exclusive(descriptor, beside)
        with suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        with suppress(OSError):
            os.fchmod(descriptor, mode)
        copy_patched(source, descriptor, patch)
        operations.sync(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def put_in_place(directory: Path, patch: FilePatch, size_bytes: int) -> None:
    """Let the file of `size_bytes`, the old or the new one, stand in its place; may be called after any interruption.

    Raises OSError when neither stands there.
    """
    path = directory / patch.name
    restore_aside(path)
    if _size_of(path) == size_bytes:
        return
    beside = new_beside(path)
    if _size_of(beside) != size_bytes:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(beside))
    try:
        operations.exchange(path, beside)
    except operations.NotOfferedError:
        _exchange_by_renames(path, beside)
    operations.sync_directory(directory)


def restore_aside(path: Path) -> None:
    """End an exchange by renames that was cut off: what stands aside goes to the name that is free."""
    aside = aside_of(path)
    if os.path.lexists(aside):
        operations.rename(aside, new_beside(path) if os.path.lexists(path) else path)
        operations.sync_directory(path.parent)


def discard(directory: Path, patch: FilePatch) -> None:
    """Remove what stands beside: the old file of a change that is final, the new one of one that was taken back."""
    operations.remove(new_beside(directory / patch.name))


def left_beside(directory: Path, locked: Path) -> Iterator[Path]:
    """Copies that were never finished: of `locked` itself, or of any file in it when it is the directory."""
    if locked.is_dir():
        yield from (directory / name for name in sorted(os.listdir(directory)) if _is_copy(name))
    elif os.path.lexists(beside := new_beside(locked)):
        yield beside


def _is_copy(name: str) -> bool:
    return name.startswith(".") and name.endswith(NEW_SUFFIX)


def _exchange_by_renames(path: Path, beside: Path) -> None:
    """In each state between, `restore_aside` knows the way back."""
    aside = aside_of(path)
    for source, target in ((path, aside), (beside, path), (aside, beside)):
        operations.rename(source, target)
        operations.sync_directory(path.parent)


def _size_of(path: Path) -> int | None:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None
