"""Every call that changes a file in place, one thin function each.

Callers write `operations.write(...)`, so that a test can record the sequence, cut it at any point, or let a call fail.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

# linux/falloc.h
_COLLAPSE_RANGE = 0x08
_INSERT_RANGE = 0x20

# linux/fs.h: FICLONERANGE, and its argument (descriptor, offset, length with 0 for all to the end, target offset).
_CLONE_RANGE = 0x4020940D
_CLONE_ARGUMENT = struct.Struct("=qQQQ")

# linux/fs.h, fcntl.h
_RENAME_EXCHANGE = 2
_CURRENT_DIRECTORY = -100

_NOT_OFFERED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EXDEV, errno.EPERM, errno.EBADF)


class NoRoomError(OSError):
    """The file system cannot make room inside a file."""


class NotOfferedError(OSError):
    """The file system or the kernel cannot do this in one step; there is a slower way."""


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


def clone_range(source: int, target: int, offset_bytes: int, size_bytes: int, target_offset_bytes: int) -> None:
    """Let `target` share the blocks of `source` (btrfs, xfs, bcachefs): no byte is copied. All in whole blocks, but
    that a size of 0 means all to the end. Raises NotOfferedError where that cannot be.
    """
    import fcntl

    argument = _CLONE_ARGUMENT.pack(source, offset_bytes, size_bytes, target_offset_bytes)
    try:
        fcntl.ioctl(target, _CLONE_RANGE, argument)
    except OSError as error:
        raise _not_offered(error) from error


def copy_range(source: int, target: int, offset_bytes: int, size_bytes: int, target_offset_bytes: int) -> int:
    """Let the kernel copy up to `size_bytes`, and return how many it did; 0 at the end of `source`.

    Raises NotOfferedError where it does not (before Linux 5.19 between file systems, elsewhere than on Linux).
    """
    if not hasattr(os, "copy_file_range"):
        raise NotOfferedError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        return os.copy_file_range(source, target, size_bytes, offset_bytes, target_offset_bytes)
    except OSError as error:
        raise _not_offered(error) from error


def resize(descriptor: int, size_bytes: int) -> None:
    """Cut the file off at `size_bytes`, or let zeros follow up to there."""
    os.ftruncate(descriptor, size_bytes)


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


def exchange(one: Path, other: Path) -> None:
    """Let two files or directories of one file system change places, atomically.

    Raises NotOfferedError where that cannot be done in one step (old kernels, some network file systems).
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise NotOfferedError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    function = library.renameat2
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    here = _CURRENT_DIRECTORY
    if function(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise _not_offered(OSError(code, os.strerror(code), str(one)))


def remove(path: Path) -> None:
    """Remove the file `path`; nothing happens when it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _not_offered(error: OSError) -> OSError:
    return NotOfferedError(error.errno, error.strerror) if error.errno in _NOT_OFFERED else error


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
