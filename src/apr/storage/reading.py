"""Reading files by position: bounds first, constant memory, and the same open file from check to load.

A reader shares the file's lock while it has it open, so no stamp in place happens under it; a stamp that was
interrupted is settled first (`apr.storage.recovery`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from apr.errors import DamagedFileError, InputOutputError, NotFoundError
from apr.storage.journal import aside_of, journal_of_directory, journal_of_file
from apr.storage.locking import lock_shared

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


MOST_FILES = 2000
"""No model is in more, here or on a server."""

NOTHING_KNOWN: Mapping[str, int] = MappingProxyType({})

_held_directory: ContextVar[str | None] = ContextVar("held_directory", default=None)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Within the block this thread reads the files of `directory` past its own locks and journal."""
    token = _held_directory.set(os.path.realpath(directory))
    try:
        yield
    finally:
        _held_directory.reset(token)


def has_journal(path: Path) -> bool:
    """Whether a stamp of the file or directory at `path` was interrupted, or is going on."""
    return any(os.path.lexists(journal) for journal, _ in _journals(path))


def settle(path: Path) -> None:
    """Finish or take back an interrupted stamp of the file or directory at `path`; the caller has it locked nowhere.

    Raises as `apr.storage.recovery.recover`.
    """
    for journal, locked in _journals(path):
        if os.path.lexists(journal):
            from apr.storage.recovery import recover

            recover(journal, locked)


def _journals(path: Path) -> list[tuple[Path, Path]]:
    """Where journals of changes to `path` would stand, each with the file or directory whose lock guards it."""
    real = Path(os.path.realpath(path))
    if real.is_dir():
        return [(journal_of_directory(real), real)]
    folders = {real.parent, Path(os.path.abspath(path)).parent}
    return [(journal_of_file(real), real), *((journal_of_directory(folder), folder) for folder in folders)]


def is_put_back(path: Path) -> bool:
    """Whether a directory that lost its name `path` to an interrupted replacement has it again."""
    if os.path.lexists(path) or not os.path.lexists(aside_of(Path(os.path.abspath(path)))):
        return False
    from apr.storage.recovery import restore_directory

    return restore_directory(path)


def is_held(path: Path) -> bool:
    """Whether this thread holds the file or directory at `path` itself (`held`), or the directory of a link there."""
    directory = _held_directory.get()
    if directory is None:
        return False
    real, named = os.path.realpath(path), os.path.realpath(os.path.dirname(os.path.abspath(path)))
    return directory in (real, os.path.dirname(real), named)


class _Held:
    """A descriptor under the shared lock of its file or directory: no stamp in place happens to it until it is closed.

    An interrupted stamp is settled first, and what it left is opened anew.
    """

    is_remote = False

    def __init__(self, path: Path, open_at: Callable[[Path], int]) -> None:
        self.path = path
        self._descriptor = open_at(path)
        if not is_held(path):
            try:
                lock_shared(self._descriptor, path)
                if has_journal(path):
                    self.close()
                    settle(path)
                    self._descriptor = open_at(path)
                    lock_shared(self._descriptor, path)
            except BaseException:
                self.close()
                raise

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


class SourceFile(_Held):
    """A file opened once for positional reads; `size_bytes` is its size when it was opened.

    Reads go through the descriptor, so a path that is replaced meanwhile does not mix two files. is_remote: the bytes
    come over the network (`apr.storage.remote`), so nothing is read that can be done without.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _open_settled)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def sibling(self, name: str) -> SourceFile:
        """The file `name` beside this one, for the caller to close; raises as `SourceFile`."""
        return SourceFile(self.path.with_name(name))

    def check_extent(self, offset_bytes: int, size_bytes: int, what: str) -> None:
        """Raise DamagedFileError unless `[offset, offset + size)` lies inside the file; call before allocating."""
        if offset_bytes < 0 or size_bytes < 0 or offset_bytes + size_bytes > self.size_bytes:
            raise DamagedFileError(
                f"{what} lies outside the file",
                where=f"{self.path} at byte {offset_bytes}",
                expected=f"bytes {offset_bytes} to {offset_bytes + size_bytes} inside the file",
                found=f"a file of {self.size_bytes} bytes",
                invariant="INV-FILE-INTEGRITY-001",
                remedy="fetch an intact copy of the file",
            )

    def read_at(self, offset_bytes: int, size_bytes: int, what: str = "a section") -> bytes:
        """Exactly `size_bytes` bytes at `offset_bytes`."""
        self.check_extent(offset_bytes, size_bytes, what)
        try:
            data = os.pread(self._descriptor, size_bytes, offset_bytes)
        except OSError as error:
            raise self._unreadable(what, error) from error
        if len(data) == size_bytes:
            return data
        buffer = bytearray(size_bytes)
        self.read_into(offset_bytes, memoryview(buffer), what)
        return bytes(buffer)

    def read_into(self, offset_bytes: int, target: memoryview, what: str = "a section") -> None:
        """Fill `target` (a writable byte view) from `offset_bytes`; a file that shrank meanwhile is damaged."""
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._descriptor, [target[done:]], offset_bytes + done)
            except OSError as error:
                raise self._unreadable(what, error) from error
            if count == 0:
                self.check_extent(offset_bytes, len(target), what)
                raise DamagedFileError(
                    f"the file shrank while {what} was read",
                    where=f"{self.path} at byte {offset_bytes + done}",
                    expected=f"{self.size_bytes} bytes, as when it was opened",
                    found=f"{os.fstat(self._descriptor).st_size} bytes",
                    invariant="INV-FILE-INTEGRITY-001",
                    remedy="let the writer finish, then run again",
                )
            done += count

    def _unreadable(self, what: str, error: OSError) -> InputOutputError:
        return InputOutputError(
            f"cannot read {what}: {error.strerror}", where=str(self.path), remedy="look at the state of the disk"
        )

    def stream(self, offset_bytes: int, size_bytes: int, chunk_bytes: int) -> Iterator[memoryview]:
        """The extent in chunks through one reused buffer; a view is valid until the next one is asked for."""
        self.check_extent(offset_bytes, size_bytes, "a section")
        buffer = memoryview(bytearray(min(chunk_bytes, size_bytes)))
        done = 0
        while done < size_bytes:
            view = buffer[: min(chunk_bytes, size_bytes - done)]
            self.read_into(offset_bytes + done, view)
            yield view
            done += len(view)


def _not_found(path: Path) -> NotFoundError:
    is_broken_link = os.path.islink(path)
    return NotFoundError(
        "the symbolic link points to a file that does not exist" if is_broken_link else "no such file",
        where=str(path),
        found=f"a link to {os.readlink(path)}" if is_broken_link else None,
        invariant="FALSIFY-APR-PRETRAIN-INIT-003",
        remedy="check the path",
    )


class HeldDirectory(_Held):
    """A directory whose files are read together: no stamp in place happens in it until it is closed.

    local_name: what it is called on this machine in commands for the user; for one on another machine, once it is
    downloaded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _open_directory)
        self.local_name = str(path)

    def expect(self, names: Iterable[str], likely_bytes: Mapping[str, int] = NOTHING_KNOWN) -> None:
        """Say which files will be asked for, and about how much of each; only a directory far away makes use of it."""

    def has(self, name: str) -> bool:
        """Whether there is an entry `name`, also when it is a link that leads nowhere."""
        return os.path.lexists(self.path / name)

    def holds(self, name: str) -> bool:
        """Whether `name` leads to a file."""
        return os.path.isfile(self.path / name)

    def open(self, name: str) -> SourceFile:
        """The file `name`, for the caller to close; raises as `SourceFile`."""
        return SourceFile(self.path / name)

    def names(self, known: Iterable[str] = ()) -> list[str]:
        """All entries, sorted; of a directory that cannot be listed, those of `known` that are there."""
        return sorted(os.listdir(self.path))


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_settled(path: Path) -> int:
    """As `_open_regular`; a file that an interrupted stamp left without its name gets it back first."""
    try:
        return _open_regular(path)
    except NotFoundError:
        if os.path.lexists(path) or is_held(path) or not os.path.lexists(aside_of(Path(os.path.abspath(path)))):
            raise
    settle(path)
    return _open_regular(path)


def _open_regular(path: Path) -> int:
    """A descriptor of the regular file `path`; raises what the user can act on for everything else."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(path) from error
    except OSError as error:
        raise InputOutputError(
            f"cannot open the file: {error.strerror}",
            where=str(path),
            remedy="check the path and your permission to read it",
        ) from error
    except ValueError as error:  # A zero byte in the path.
        raise NotFoundError("no such file: the path holds a zero byte", where=str(path)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DamagedFileError(
            "not a regular file",
            where=str(path),
            expected="a regular file",
            found=_KINDS.get(stat.S_IFMT(mode), "another kind of file"),
            invariant="FALSIFY-APR-PRETRAIN-INIT-004",
            remedy="name the checkpoint file itself",
        )
    return descriptor
