"""A stamp that was interrupted is finished, or taken back, by whoever opens the file next, and it is said.

A journal can stand beside a file only while its writer holds the file's exclusive lock; found without that, its
writer is dead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from apr.errors import AprError, DamagedFileError, InputOutputError, shell_word
from apr.storage import operations
from apr.storage.exchange import left_beside, restore_aside
from apr.storage.inplace import carry_out, content_of, finish, opened, take_back
from apr.storage.journal import MOST_JOURNAL_BYTES, aside_of, decode_journal
from apr.storage.locking import lock_exclusive
from apr.storage.patches import Change, FilePatch, is_between

RECOVERY_TIMEOUT_S = 30.0


def recover(journal: Path, locked: Path) -> None:
    """Finish or take back what `journal` describes; `locked` is the file or directory whose lock guards it.

    Logs what was done (logger `apr`). Raises InputOutputError without permission to write, DamagedFileError when the
    files are neither as before nor as after nor on the way between.
    """
    try:
        descriptor = os.open(_standing(locked), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _not_possible(journal, error) from error
    try:
        lock_exclusive(descriptor, locked, RECOVERY_TIMEOUT_S)
        data = _read(journal)
        if data is not None:
            _say(locked, _settle(journal, decode_journal(data), locked))
    finally:
        os.close(descriptor)


def restore_directory(path: Path) -> bool:
    """Whether a directory stands at `path` that was standing aside, as a copy that took its place was cut off."""
    path = Path(os.path.abspath(path))
    aside = aside_of(path)
    if os.path.lexists(path) or not aside.is_dir():
        return False
    operations.rename(aside, path)
    operations.sync_directory(path.parent)
    _say(path, "taken back")
    return True


def _standing(locked: Path) -> Path:
    """`locked`, or where it stands for the instant in which it has no name of its own (`apr.storage.exchange`)."""
    aside = aside_of(locked)
    return aside if not os.path.lexists(locked) and os.path.lexists(aside) else locked


def _read(journal: Path) -> bytes | None:
    """The bytes of the journal; None when its writer was alive and is done."""
    try:
        if os.stat(journal).st_size > MOST_JOURNAL_BYTES:
            raise _unfit(journal, f"a journal of at most {MOST_JOURNAL_BYTES} bytes", "a larger one")
        return content_of(journal)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_possible(journal, error) from error


def _settle(journal: Path, change: Change | None, locked: Path) -> str:
    directory = journal.parent
    try:
        if change is None:
            for copy in left_beside(directory, locked):
                operations.remove(copy)
            operations.sync_directory(directory)
            operations.remove(journal)
            return "taken back: nothing had been changed yet"
        if not locked.is_dir() and ([patch.name for patch in change.patches] != [locked.name] or change.replacements):
            raise _unfit(journal, f"a change to {locked.name} alone", "a change to other files")
        for patch in change.patches:
            if patch.by_copy:
                restore_aside(directory / patch.name)
        with opened(directory, change.patches) as files:
            for patch in change.patches:
                _check_fits(journal, files[patch.name], patch)
            _check_small_files_fit(journal, directory, change)
            outcome = _finish(directory, files, change)
        operations.remove(journal)
    except OSError as error:
        raise _not_possible(journal, error) from error
    except AprError as error:
        if isinstance(error, InputOutputError):
            raise _not_possible(journal, error) from error
        raise
    return outcome


def _finish(directory: Path, files: Mapping[str, int], change: Change) -> str:
    try:
        carry_out(directory, files, change)
    except OSError:
        take_back(directory, files, change)
        return "taken back: the system refused to finish it"
    finish(directory, change)
    return "finished"


def _check_fits(journal: Path, descriptor: int, patch: FilePatch) -> None:
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes not in (patch.size_bytes, patch.new_size_bytes):
        raise _unfit(journal, f"{patch.size_bytes} or {patch.new_size_bytes} bytes", f"{size_bytes} bytes")
    has_room = size_bytes == patch.new_size_bytes
    current = [
        os.pread(descriptor, len(splice.new), splice.new_offset_bytes)
        if has_room
        else os.pread(descriptor, len(splice.old), splice.old_offset_bytes)
        for splice in patch.splices
    ]
    if not is_between(patch, current, has_room=has_room):
        raise _unfit(journal, "bytes from before or after the stamp", "other bytes")


def _check_small_files_fit(journal: Path, directory: Path, change: Change) -> None:
    for each in change.replacements:
        if content_of(directory / each.name) not in (each.old, each.new):
            raise _unfit(journal, f"{each.name} as before or after the stamp", "another content")


def _say(path: Path, outcome: str) -> None:
    import logging

    logging.getLogger("apr").warning("an interrupted stamp of %s was %s", path, outcome)


def _not_possible(journal: Path, error: Exception) -> InputOutputError:
    reason = error.strerror if isinstance(error, OSError) else getattr(error, "found", None) or str(error)
    return InputOutputError(
        "a stamp of this checkpoint was interrupted, and finishing it is not possible here",
        where=str(journal),
        found=reason,
        remedy=f"open it once with the right to write in {shell_word(journal.parent)}, for example with apr inspect",
        invariant="INV-STAMP-ATOMIC-001",
    )


def _unfit(journal: Path, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the journal of an interrupted stamp does not fit the file beside it",
        where=str(journal),
        expected=expected,
        found=found,
        remedy=f"if the file was fetched or written again since, remove {shell_word(journal)}",
        invariant="INV-STAMP-ATOMIC-001",
    )
