"""A stamp where the checkpoint stands: locked, journalled, reopened and held against the plan, whatever its size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from apr.errors import InputOutputError, RefusedError
from apr.formats.base import Checkpoint, Format
from apr.formats.registry import open_checkpoint
from apr.stamping.edit import Edit
from apr.storage import operations
from apr.storage.inplace import FileChangedError, change_in_place
from apr.storage.journal import journal_of_directory, journal_of_file
from apr.storage.locking import lock_exclusive
from apr.storage.patches import Change, by_copy

BYTES_ID = "INV-STAMP-BYTES-001"


def apply_in_place(edit: Edit, change: Change, check: Callable[[Checkpoint], None]) -> Change:
    """Carry out `change`, which `edit` planned, on the files of `edit.before`, which are open; returns what was done.

    `check` gets the reopened checkpoint before the stamp is final; what it raises takes everything back. Where the
    file system cannot make room inside a file, its changed copy takes its place (`FilePatch.by_copy`). Raises
    FileChangedError when somebody else changed the files since they were read.
    """
    path = edit.before.path
    is_directory = edit.before.format is Format.HF_DIRECTORY
    directory = path if is_directory else path.parent
    journal = journal_of_directory(path) if is_directory else journal_of_file(path)

    def check_result() -> None:
        with open_checkpoint(path) as written:
            check_untouched(edit.before, written, change)
            check(written)

    lock_alone(edit.before, change)
    try:
        change_in_place(directory, journal, change, check_result)
    except operations.NoRoomError:
        change = by_copy(change)
        change_in_place(directory, journal, change, check_result)
    return change


def lock_alone(checkpoint: Checkpoint, change: Change) -> None:
    """Take the exclusive locks of everything `change` touches, on the files as they were opened, until they close."""
    patched = {patch.name for patch in change.patches}
    if checkpoint.directory is not None:
        lock_exclusive(checkpoint.directory.fileno(), checkpoint.path)
        _check_same_file(checkpoint.directory.fileno(), checkpoint.path)
    for file in checkpoint.files:
        if file.path.name in patched:
            check_no_link(file.path)
            lock_exclusive(file.fileno(), file.path)
            _check_same_file(file.fileno(), file.path)


def check_untouched(before: Checkpoint, written: Checkpoint, change: Change) -> None:
    """Raise RefusedError unless every tensor stands where it stood, moved by no more than the room made before it.

    No byte of a tensor is read: `change` writes none of them, and what the file records of them is unchanged.
    """
    room_bytes = {patch.name: patch.room_bytes for patch in change.patches}
    expected = {
        name: (entry.dtype, entry.shape, entry.offset_bytes + room_bytes.get(entry.file.path.name, 0), entry.size_bytes)
        for name, entry in before.tensors.items()
    }
    found = {
        name: (entry.dtype, entry.shape, entry.offset_bytes, entry.size_bytes)
        for name, entry in written.tensors.items()
    }
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing or before.recorded.tensor_digests != written.recorded.tensor_digests:
        raise RefusedError(
            f"{len(differing)} tensors would not stand as they stood; the stamp was taken back",
            where=f"tensor {differing[0]}" if differing else "the recorded digests",
            expected=str(expected.get(differing[0])) if differing else "the same digests",
            found=str(found.get(differing[0])) if differing else "other digests",
            remedy="run again; the file is as it was",
            invariant=BYTES_ID,
            facts={"tensors": differing},
        )


def check_no_link(path: Path) -> None:
    """Raise InputOutputError when a weight file that would be changed is a link."""
    if path.is_symlink():
        raise InputOutputError(
            "a weight file that carries stamps is a link, and the file it leads to may belong to others too",
            where=str(path),
            found=f"a link to {path.readlink()}",
            remedy="write a stamped copy with -o OUT",
        )


def _check_same_file(descriptor: int, path: Path) -> None:
    mine = os.fstat(descriptor)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        there = None
    if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        raise FileChangedError(
            "another file took this one's place while it was being stamped",
            where=str(path),
            remedy="run again; nothing was changed",
        )
