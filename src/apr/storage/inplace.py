"""Change files of one directory where they stand: all of it or nothing, also when the process or the power dies.

Order: the journal is written and synced; room is made, bytes are written and synced; the result is checked; the
journal is removed. Before the journal is whole nothing has changed; from then on `apr.storage.recovery` can finish.
Where room cannot be made inside a file, its changed copy (`apr.storage.exchange`) is written before the journal is
whole, and changes places with it after.
The caller holds the exclusive lock of every file changed (`apr.storage.locking`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType

from apr.errors import InputOutputError
from apr.storage import operations
from apr.storage.atomic import refusal
from apr.storage.journal import encode_journal, new_beside
from apr.storage.patches import Change, FilePatch, Replacement
from apr.storage.reading import held

_NEW_FILE_MODE = 0o644


class FileChangedError(InputOutputError):
    """Another program changed the file between reading and writing: read it again."""


def change_in_place(directory: Path, journal: Path, change: Change, check: Callable[[], None]) -> None:
    """Carry out `change` in `directory` with its journal at `journal`; `check` opens the result before it is final.

    Raises FileChangedError when a file is not as the change expects it, `operations.NoRoomError` where the file system
    cannot make room, InputOutputError when the operating system refuses, and what `check` raises. After any of them
    every file is as it was.
    """
    with opened(directory, change.patches) as files:
        for patch in change.patches:
            check_unchanged(files[patch.name], patch, directory)
        _check_small_files(directory, change.replacements)
        try:
            with _copies(directory, journal, files, change):
                try:
                    carry_out(directory, files, change)
                    with held(directory):
                        check()
                except BaseException:
                    take_back(directory, files, change)
                    operations.remove(journal)
                    raise
                finish(directory, change)
                operations.remove(journal)
        except operations.NoRoomError:
            raise
        except OSError as error:
            raise refusal(error, directory) from error


def carry_out(directory: Path, files: Mapping[str, int], change: Change) -> None:
    """Every step of `change` that is not done yet; may be called again after any interruption."""
    for patch in change.patches:
        if patch.by_copy:
            _exchange().put_in_place(directory, patch, patch.new_size_bytes)
            continue
        descriptor = files[patch.name]
        if patch.room_bytes and os.fstat(descriptor).st_size == patch.size_bytes:
            operations.insert_range(descriptor, patch.room_offset_bytes, patch.room_bytes)
        for splice in patch.splices:
            operations.write(descriptor, splice.new, splice.new_offset_bytes)
        operations.sync(descriptor)
    for each in change.replacements:
        _put(directory, each, each.new)
    if change.replacements:
        operations.sync_directory(directory)


def take_back(directory: Path, files: Mapping[str, int], change: Change) -> None:
    """Undo every step of `change` that was done; may be called again after any interruption."""
    for each in change.replacements:
        _put(directory, each, each.old)
    for patch in change.patches:
        if patch.by_copy:
            _exchange().put_in_place(directory, patch, patch.size_bytes)
            continue
        descriptor = files[patch.name]
        if patch.room_bytes and os.fstat(descriptor).st_size == patch.new_size_bytes:
            operations.collapse_range(descriptor, patch.room_offset_bytes, patch.room_bytes)
        for splice in patch.splices:
            if os.pread(descriptor, len(splice.old), splice.old_offset_bytes) != splice.old:
                operations.write(descriptor, splice.old, splice.old_offset_bytes)
        operations.sync(descriptor)
    if change.replacements:
        operations.sync_directory(directory)
    finish(directory, change)


def finish(directory: Path, change: Change) -> None:
    """Remove what stands beside the files for nothing, now that the change is final or taken back."""
    copied = [patch for patch in change.patches if patch.by_copy]
    for patch in copied:
        _exchange().discard(directory, patch)
    if copied:  # Before the journal goes: nothing else would ever find the copy.
        operations.sync_directory(directory)


@contextmanager
def opened(directory: Path, patches: tuple[FilePatch, ...]) -> Iterator[Mapping[str, int]]:
    """Descriptors for reading and writing of the patched files, by name; links are not followed."""
    with ExitStack() as stack:
        files: dict[str, int] = {}
        for patch in patches:
            path = directory / patch.name
            try:
                files[patch.name] = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                raise refusal(error, path) from error
            stack.callback(os.close, files[patch.name])
        yield files


def check_unchanged(descriptor: int, patch: FilePatch, directory: Path) -> None:
    """Raise FileChangedError unless the file is as it was when `patch` was planned."""
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes != patch.size_bytes:
        raise _changed(directory / patch.name, f"{patch.size_bytes} bytes", f"{size_bytes} bytes")
    for splice in patch.splices:
        if os.pread(descriptor, len(splice.old), splice.old_offset_bytes) != splice.old:
            expected = f"the bytes that stood at {splice.old_offset_bytes}"
            raise _changed(directory / patch.name, expected, "other bytes")


def content_of(path: Path) -> bytes | None:
    """The bytes of a small file; None when it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_small_files(directory: Path, replacements: tuple[Replacement, ...]) -> None:
    for each in replacements:
        if content_of(directory / each.name) != each.old:
            raise _changed(directory / each.name, "the content it had", "another")


@contextmanager
def _copies(directory: Path, journal: Path, files: Mapping[str, int], change: Change) -> Iterator[None]:
    """The journal, durable and whole, beside every copy that `change` needs; copies stay locked within the block.

    The journal is there, empty, before the first copy, so that a copy that is cut off is found. Any failure before
    the block removes both: nothing was changed then.
    """
    copied = [patch for patch in change.patches if patch.by_copy]
    with ExitStack() as stack:
        descriptor = operations.create(journal, 0o600)
        try:
            if copied:
                operations.sync_directory(journal.parent)
            for patch in copied:
                stack.callback(os.close, _exchange().write_beside(directory, files[patch.name], patch))
            operations.write(descriptor, encode_journal(change), 0)
            operations.sync(descriptor)
            operations.sync_directory(journal.parent)
        except BaseException:
            finish(directory, change)
            operations.remove(journal)
            raise
        finally:
            os.close(descriptor)
        yield


def _exchange() -> ModuleType:
    """The module of changed copies, which only file systems without room inside files need."""
    from apr.storage import exchange

    return exchange


def _put(directory: Path, replacement: Replacement, content: bytes | None) -> None:
    path = directory / replacement.name
    beside = new_beside(path)
    operations.remove(beside)
    if content is None:
        operations.remove(path)
        return
    if content_of(path) == content:
        return
    descriptor = operations.create(beside, _mode(path))
    try:
        with suppress(OSError):
            os.fchmod(descriptor, _mode(path))
        operations.write(descriptor, content, 0)
        operations.sync(descriptor)
    finally:
        os.close(descriptor)
    operations.rename(beside, path)


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return _NEW_FILE_MODE


def _changed(path: Path, expected: str, found: str) -> FileChangedError:
    return FileChangedError(
        "the file changed while it was being stamped",
        where=str(path),
        expected=expected,
        found=found,
        remedy="let the other program finish, then run again; nothing was changed",
    )
