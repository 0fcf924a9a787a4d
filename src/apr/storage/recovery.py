"""A stamp that was interrupted is finished, or taken back, by whoever opens the file next, and it is said.

A journal can stand beside a file only while its writer holds the file's exclusive lock; found without that, its
writer is dead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from apr.errors import AprError, InputOutputError, shell_word
from apr.storage import operations
from apr.storage.exchange import left_beside, restore_aside
from apr.storage.fitting import check_may_name, others_in, read_journal
from apr.storage.inplace import carry_out, finish, opened, take_back
from apr.storage.journal import aside_of, decode_journal
from apr.storage.locking import lock_exclusive
from apr.storage.patches import Change
from apr.storage.unchanged import FileChangedError

RECOVERY_TIMEOUT_S = 30.0


def recover(journal: Path, locked: Path) -> None:
    """Finish or take back what `journal` describes; `locked` is the file or directory whose lock guards it.

    A file that another program has written since is kept as it is, and the journal goes. Logs what was done (logger
    `apr`). Raises InputOutputError without permission to write, DamagedFileError when the journal is none that a stamp
    of these files leaves, or a file it changed is neither as before nor as after nor on the way between.
    """
    try:
        descriptor = os.open(_standing(locked), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _not_possible(journal, error) from error
    try:
        lock_exclusive(descriptor, locked, RECOVERY_TIMEOUT_S)
        try:
            data = read_journal(journal, os.fstat(descriptor).st_uid)
        except OSError as error:
            raise _not_possible(journal, error) from error
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


def _settle(journal: Path, change: Change | None, locked: Path) -> str:
    directory = journal.parent
    try:
        if change is None:
            for copy in left_beside(directory, locked):
                operations.remove(copy)
            operations.sync_directory(directory)
            operations.remove(journal)
            return "taken back: nothing had been changed yet"
        check_may_name(journal, change, locked)
        for patch in change.patches:
            if patch.by_copy:
                restore_aside(directory / patch.name)
        with opened(directory, change.patches) as files:
            others = others_in(journal, files, change)
            outcome = _drop(directory, files, change, others) if others else _finish(directory, files, change)
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
    except FileChangedError as error:
        return _drop(directory, files, change, [Path(error.where or "").name])
    except OSError:
        take_back(directory, files, change)
        return "taken back: the system refused to finish it"
    finish(directory, change)
    return "finished"


def _drop(directory: Path, files: Mapping[str, int], change: Change, others: Sequence[str]) -> str:
    """Take back what was done to the files that are still those of `change`, and leave the `others`."""
    patches = tuple(patch for patch in change.patches if patch.name not in others)
    replacements = tuple(each for each in change.replacements if each.name not in others)
    take_back(directory, files, Change(patches, replacements))
    finish(directory, change)
    return f"dropped: {', '.join(others)}, no more the file it was begun on, was kept as it is"


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
