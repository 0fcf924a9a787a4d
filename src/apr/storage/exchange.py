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
from apr.storage.patches import FileId, FilePatch
from apr.storage.unchanged import FileChangedError, changed, file_id_at


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


def put_in_place(directory: Path, patch: FilePatch, wanted: FileId | None, other: FileId | None) -> None:
    """Let the file `wanted` stand in its place where `other` stands; may be called after any interruption.

    Raises FileChangedError when neither stands there: another program gave the name to a file of its own, which is
    kept. FileNotFoundError when the wanted one is nowhere.
    """
    path = directory / patch.name
    restore_aside(path)
    there = file_id_at(path)
    if wanted is None or other is None or there not in (wanted, other):
        raise _replaced(path)
    if there == wanted:
        return
    beside = new_beside(path)
    if file_id_at(beside) != wanted:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(beside))
    try:
        operations.exchange(path, beside)
    except operations.NotOfferedError:
        _exchange_by_renames(path, beside, other)
    else:
        if file_id_at(beside) != other:  # It came between the look and the exchange.
            operations.exchange(path, beside)
            if file_id_at(beside) != wanted:  # And again: the newest stays.
                operations.exchange(path, beside)
            raise _replaced(path)
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


def check_in_place(directory: Path, patch: FilePatch) -> None:
    """Raise FileChangedError unless the copy stands in its place, and beside it the file as it was copied."""
    path = directory / patch.name
    if file_id_at(path) != patch.copy or file_id_at(new_beside(path)) != patch.source:
        raise _replaced(path)


def _exchange_by_renames(path: Path, beside: Path, other: FileId) -> None:
    """In each state between, `restore_aside` knows the way back."""
    aside = aside_of(path)
    operations.rename(path, aside)
    operations.sync_directory(path.parent)
    if file_id_at(aside) != other or os.path.lexists(path):
        restore_aside(path)
        raise _replaced(path)
    for source, target in ((beside, path), (aside, beside)):
        operations.rename(source, target)
        operations.sync_directory(path.parent)


def _replaced(path: Path) -> FileChangedError:
    return changed(path, "the file that was stamped", "a file of another program, which is kept")
