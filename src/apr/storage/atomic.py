"""Files and directories that appear whole or not at all: written beside the target, synced, then renamed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from apr.errors import AprError, InputOutputError, NotFoundError, RefusedError, shell_word
from apr.storage.operations import sync_directory
from apr.storage.replacing import replaced
from apr.storage.temporary import temporary_directory

# What the user can do about each refusal of the operating system.
_REMEDIES = {
    errno.ENOSPC: "free space on that file system, or write elsewhere",
    errno.EDQUOT: "free space within the quota, or write elsewhere",
    errno.EFBIG: "write to a file system that takes files of this size",
    errno.EACCES: "write where you have permission, or change the rights of the directory",
    errno.EPERM: "write where you have permission, or change the rights of the directory",
    errno.EROFS: "write to a file system that is not mounted read-only",
    errno.EISDIR: "name a file: a directory stands there",
    errno.ENAMETOOLONG: "choose a shorter name",
}

# Errors of O_TMPFILE on file systems and kernels that lack it.
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}

_LONGEST_NAME_BYTES = 255


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that becomes `path` when the block ends without an exception.

    The bytes are synced before the rename and the directory after it. Until then `path` is untouched, and on any
    exception nothing is left. Where the file system allows it the file has no name while it is written, so that even
    a killed process leaves nothing behind. A file that is replaced hands on its mode. Raises NotFoundError when the
    directory is missing, InputOutputError when the operating system refuses (disk full, permission, read-only).
    """
    path = Path(path)
    _check_parent(path)
    temporary = _temporary_path(path)
    try:
        descriptor, is_unnamed = _open_temporary(temporary)
        with os.fdopen(descriptor, "wb") as file:
            _keep_mode(path, descriptor)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if is_unnamed:
                _give_name(file.fileno(), temporary)
        with replaced(path):
            os.replace(temporary, path)
            sync_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise refusal(error, path) from error
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill that becomes `path` when the block ends without an exception.

    Every file in it is synced before the rename. Raises RefusedError when `path` exists already, NotFoundError when
    its parent is missing, InputOutputError when the operating system refuses. On any exception nothing is left; what a
    killed process leaves, the next one that writes there removes (`apr.storage.temporary`).
    """
    path = Path(path)
    _check_parent(path)
    if os.path.lexists(path):
        raise RefusedError(
            "the output directory exists already",
            where=str(path),
            expected="a path where nothing stands yet",
            found="a directory" if path.is_dir() else "a file",
            remedy="name another output, or remove that one first",
        )
    try:
        with temporary_directory(path) as held:
            temporary = held / path.name
            os.mkdir(temporary)
            yield temporary
            _sync_tree(temporary)
            os.rename(temporary, path)
            sync_directory(path.parent)
    except OSError as error:
        raise refusal(error, path) from error


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise NotFoundError(
            "the directory to write into does not exist",
            where=str(path.parent),
            remedy=f"create it first: mkdir -p {shell_word(path.parent)}",
        )


def _temporary_path(path: Path) -> Path:
    """A hidden name in the same directory, as a rename is atomic only within one file system."""
    suffix = f".{os.urandom(6).hex()}.tmp"
    stem = os.fsencode(path.name)[: _LONGEST_NAME_BYTES - 1 - len(suffix)].decode(errors="ignore")
    return path.parent / f".{stem}{suffix}"


def _open_temporary(temporary: Path) -> tuple[int, bool]:
    """A descriptor for writing, and whether its file has no name yet (Linux O_TMPFILE)."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(temporary.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), True
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
    return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666), False


def _keep_mode(path: Path, descriptor: int) -> None:
    """A private file that is replaced stays private; a new one follows the umask."""
    with suppress(FileNotFoundError):
        os.fchmod(descriptor, stat.S_IMODE(os.stat(path).st_mode))


def _give_name(descriptor: int, temporary: Path) -> None:
    """Link the unnamed file; only with a directory descriptor does Python follow the link in /proc to it."""
    directory = os.open(temporary.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{descriptor}", temporary.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def refusal(error: OSError, path: Path) -> AprError:
    """The error to raise for what the operating system said about writing `path`."""
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return RefusedError(
            "something appeared at the output path while it was written",
            where=str(path),
            expected="a path where nothing stands yet",
            found=str(error.strerror),
            remedy="name another output, or remove that one first",
        )
    return InputOutputError(
        f"cannot write the output: {error.strerror or error}",
        where=str(path),
        found=errno.errorcode.get(error.errno or 0, "an unnamed error"),
        remedy=_REMEDIES.get(error.errno or 0, "look at the state of the disk, then run again"),
    )
