"""A stamp where the checkpoint stands: locked, journalled, reopened and held against the plan, whatever its size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from apr.errors import InputOutputError, RefusedError
from apr.formats.base import Checkpoint, Format, TensorEntry
from apr.formats.registry import open_checkpoint
from apr.stamping.edit import Edit
from apr.storage import operations
from apr.storage.inplace import change_in_place
from apr.storage.journal import journal_of_directory, journal_of_file
from apr.storage.locking import lock_exclusive
from apr.storage.patches import Change, FilePatch, by_copy
from apr.storage.unchanged import check_stands_there, file_id

BYTES_ID = "INV-STAMP-BYTES-001"


def apply_in_place(edit: Edit, change: Change, check: Callable[[Checkpoint], None]) -> Change:
    """Carry out `change`, which `edit` planned, on the files of `edit.before`, which are open; returns what was done.

    `check` gets the reopened checkpoint before the stamp is final; what it raises takes everything back. Where the
    file system cannot make room inside a file, and where the file has other names too, its changed copy takes its
    place (`FilePatch.by_copy`): the others keep a file that is whole at every instant, as they do not know the journal.
    Raises FileChangedError when somebody else changed the files since they were read, or gave their names to others.
    """
    check_spared(edit.before, change)
    path = edit.before.path
    is_directory = edit.before.format is Format.HF_DIRECTORY
    directory = path if is_directory else path.parent
    journal = journal_of_directory(path) if is_directory else journal_of_file(path)

    def check_result() -> None:
        with open_checkpoint(path) as written:
            check_untouched(edit.before, written, change)
            check(written)

    lock_alone(edit.before, change)
    change = _known(edit.before, change)
    try:
        change_in_place(directory, journal, change, check_result)
    except operations.NoRoomError:
        change = _known(edit.before, by_copy(change))
        change_in_place(directory, journal, change, check_result)
    return change


def _known(checkpoint: Checkpoint, change: Change) -> Change:
    """`change` with every file that it patches as it is now, and by copy where it has other names."""
    descriptors = {file.path.name: file.fileno() for file in checkpoint.files}

    def known(patch: FilePatch) -> FilePatch:
        descriptor = descriptors[patch.name]
        is_linked = os.fstat(descriptor).st_nlink > 1
        return patch._replace(source=file_id(descriptor), by_copy=patch.by_copy or is_linked)

    return change._replace(patches=tuple(map(known, change.patches)))


def lock_alone(checkpoint: Checkpoint, change: Change) -> None:
    """Take the exclusive locks of everything `change` touches, on the files as they were opened, until they close."""
    patched = {patch.name for patch in change.patches}
    if checkpoint.directory is not None:
        lock_exclusive(checkpoint.directory.fileno(), checkpoint.path)
        check_stands_there(checkpoint.directory.fileno(), Path(os.path.realpath(checkpoint.path)))
    for file in checkpoint.files:
        if file.path.name in patched:
            check_no_link(file.path)
            lock_exclusive(file.fileno(), file.path)
            check_stands_there(file.fileno(), file.path)


def check_spared(before: Checkpoint, change: Change) -> None:
    """Raise RefusedError when `change` would write over a byte of a tensor."""
    places = [
        (patch.name, splice.old_offset_bytes, splice.old_offset_bytes + len(splice.old))
        for patch in change.patches
        for splice in patch.splices
    ]
    for name, entry in before.tensors.items():
        for file_name, start, end in places:
            tensor_end = entry.offset_bytes + entry.size_bytes
            meets = entry.size_bytes > 0 and entry.offset_bytes < end and tensor_end > start
            if meets and entry.file.path.name == file_name:
                raise _not_spared(name, entry, start, end)


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


def _not_spared(name: str, entry: TensorEntry, start: int, end: int) -> RefusedError:
    return RefusedError(
        "the stamp would write over bytes of a tensor",
        where=f"tensor {name}",
        expected=f"nothing is written to its bytes {entry.offset_bytes} to {entry.offset_bytes + entry.size_bytes}",
        found=f"a change of bytes {start} to {end}",
        remedy="get an intact copy of the file, and look at it with apr validate; nothing was changed",
        invariant=BYTES_ID,
        facts={"tensors": [name]},
    )
