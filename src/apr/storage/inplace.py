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

from apr.errors import AprError
from apr.storage import operations
from apr.storage.atomic import refusal
from apr.storage.journal import encode_journal, new_beside
from apr.storage.patches import Change, FilePatch, Replacement, check_plan
from apr.storage.reading import held
from apr.storage.unchanged import FileChangedError, changed, check_stands_there, check_unchanged, file_id

_NEW_FILE_MODE = 0o644


def change_in_place(directory: Path, journal: Path, change: Change, check: Callable[[], None]) -> None:
    """Carry out `change` in `directory` with its journal at `journal`; `check` opens the result before it is final.

    Raises FileChangedError when a file is not as the change expects it, `operations.NoRoomError` where the file system
    cannot make room, InputOutputError when the operating system refuses, and what `check` raises. After any of them
    every file is as it was.
    """
    for patch in change.patches:
        check_plan(patch)
    with opened(directory, change.patches) as files:
        for patch in change.patches:
            check_unchanged(files[patch.name], patch, directory / patch.name)
        _check_small_files(directory, change.replacements)
        try:
            with _copies(directory, journal, files, change) as change:
                try:
                    carry_out(directory, files, change)
                    try:
                        with held(directory):
                            check()
                    except AprError:  # Whatever is wrong with a file of another program is no fault of the change.
                        _check_in_place(directory, files, change)
                        raise
                    _check_in_place(directory, files, change)
                except BaseException:
                    take_back(directory, files, change)
                    operations.remove(journal)
                    raise
                _conclude(directory, journal, change)
        except operations.NoRoomError:
            raise
        except OSError as error:
            raise refusal(error, directory) from error


def carry_out(directory: Path, files: Mapping[str, int], change: Change) -> None:
    """Every step of `change` that is not done yet; may be called again after any interruption."""
    for patch in change.patches:
        if patch.by_copy:
            _exchange().put_in_place(directory, patch, patch.copy, patch.source)
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
    """Undo every step of `change` that was done; may be called again after any interruption.

    A file of another program that took a name meanwhile is left there.
    """
    for each in change.replacements:
        operations.remove(new_beside(directory / each.name))
        if content_of(directory / each.name) == each.new:
            _put(directory, each, each.old)
    for patch in change.patches:
        if patch.by_copy:
            with suppress(FileChangedError):
                _exchange().put_in_place(directory, patch, patch.source, patch.copy)
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


def content_of(path: Path) -> bytes | None:
    """The bytes of a small file; None when it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_small_files(directory: Path, replacements: tuple[Replacement, ...]) -> None:
    for each in replacements:
        if content_of(directory / each.name) != each.old:
            raise changed(directory / each.name, "the content it had", "another")


def _check_in_place(directory: Path, files: Mapping[str, int], change: Change) -> None:
    """Raise FileChangedError unless what was changed is what stands in the directory now."""
    for patch in change.patches:
        if patch.by_copy:
            _exchange().check_in_place(directory, patch)
        else:
            check_stands_there(files[patch.name], directory / patch.name)
    for each in change.replacements:
        if content_of(directory / each.name) != each.new:
            raise changed(directory / each.name, "the content that was written", "another")


@contextmanager
def _copies(directory: Path, journal: Path, files: Mapping[str, int], change: Change) -> Iterator[Change]:
    """The journal, durable and whole, beside every copy that `change` needs; copies stay locked within the block.

    Gives the change with every file and every copy in it known.

    The journal is there, empty, before the first copy, so that a copy that is cut off is found. Any failure before
    the block removes both: nothing was changed then.
    """
    patches = [patch._replace(source=patch.source or file_id(files[patch.name])) for patch in change.patches]
    with ExitStack() as stack:
        descriptor = _created(journal)
        try:
            if any(patch.by_copy for patch in patches):
                operations.sync_directory(journal.parent)
            for at, patch in enumerate(patches):
                if patch.by_copy:
                    copy = _exchange().write_beside(directory, files[patch.name], patch)
                    stack.callback(os.close, copy)
                    patches[at] = patch._replace(copy=file_id(copy))
            change = change._replace(patches=tuple(patches))
            operations.write(descriptor, encode_journal(change), 0)
            operations.sync(descriptor)
            operations.sync_directory(journal.parent)
        except BaseException:
            finish(directory, change)
            operations.remove(journal)
            raise
        finally:
            os.close(descriptor)
        yield change


def _created(journal: Path) -> int:
    """The descriptor of the empty journal; an interrupt that is met as it was made leaves none."""
    try:
        return operations.create(journal, 0o600)
    except KeyboardInterrupt:
        if content_of(journal) == b"":
            operations.remove(journal)
        raise


def _conclude(directory: Path, journal: Path, change: Change) -> None:
    """The change is final: an interrupt that is met from here on leaves no more behind than any other end."""
    try:
        finish(directory, change)
        operations.remove(journal)
    except KeyboardInterrupt:
        finish(directory, change)
        operations.remove(journal)
        raise


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
