"""Every call that changes a file in place, one thin function each.

Callers write `operations.write(...)`, so that a test can record the sequence, cut it at any point, or let a call fail.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

# linux/falloc.h
_COLLAPSE_RANGE = 0x08
_INSERT_RANGE = 0x20


class NoRoomError(OSError):
    """The file system cannot make room inside a file."""


def create(path: Path, mode: int) -> int:
    """A descriptor for the new file `path`; FileExistsError when something stands there."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, mode)


def write(descriptor: int, data: bytes, offset_bytes: int) -> None:
    """All of `data` at `offset_bytes`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset_bytes)
        view, offset_bytes = view[count:], offset_bytes + count


def insert_range(descriptor: int, offset_bytes: int, size_bytes: int) -> None:
    """Shift everything from `offset_bytes` on by `size_bytes`; zeros appear between. Both in whole blocks.

    Raises NoRoomError where the file system cannot (ext4 and xfs can), another OSError for a full disk.
    """
    try:
        _fallocate(descriptor, _INSERT_RANGE, offset_bytes, size_bytes)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise NoRoomError(error.errno, error.strerror) from error
        raise


def collapse_range(descriptor: int, offset_bytes: int, size_bytes: int) -> None:
    """Take `size_bytes` at `offset_bytes` out of the file: the reverse of `insert_range`."""
    _fallocate(descriptor, _COLLAPSE_RANGE, offset_bytes, size_bytes)


def sync(descriptor: int) -> None:
    """Make the bytes and the size of a file durable."""
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`, atomically."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Remove the file `path`; nothing happens when it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _fallocate(descriptor: int, mode: int, offset_bytes: int, size_bytes: int) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    try:
        function = library.fallocate64 if hasattr(library, "fallocate64") else library.fallocate
    except AttributeError as error:  # Not Linux.
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while function(descriptor, mode, offset_bytes, size_bytes) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
