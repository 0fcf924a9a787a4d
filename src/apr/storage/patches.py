"""A change to a file where it stands, as data: which bytes become which, and where room is made between them."""

from __future__ import annotations

from typing import NamedTuple

from apr.errors import RefusedError


class Splice(NamedTuple):
    """`old`, which stood at `old_offset_bytes` before, becomes `new` at `new_offset_bytes` of the changed file."""

    old_offset_bytes: int
    old: bytes
    new_offset_bytes: int
    new: bytes


class FileId(NamedTuple):
    """Which file it is, whatever its name: another one that takes the name differs, and so does one written again.

    No device: a journal and the files it names stand in one directory, and numbers of devices change at a start.
    """

    inode: int
    mtime_ns: int
    size_bytes: int


class FilePatch(NamedTuple):
    """The change to the file `name` of one directory.

    room_bytes zeros appear at room_offset_bytes (whole blocks; 0: none), then the splices are written. A splice that
    begins at or before the room and ends at or behind it has a `new` that is longer by the room; one behind it moves.
    by_copy: the file is not changed itself; a changed copy takes its place. source: the file that is changed, None
    while it is not known, and in old journals. copy: the changed copy, once it is made.
    """

    name: str
    size_bytes: int
    room_offset_bytes: int
    room_bytes: int
    splices: tuple[Splice, ...]
    by_copy: bool = False
    source: FileId | None = None
    copy: FileId | None = None

    @property
    def new_size_bytes(self) -> int:
        return self.size_bytes + self.room_bytes


class Replacement(NamedTuple):
    """The whole content of the small file `name`: `old` becomes `new`; None is a file that does not exist."""

    name: str
    old: bytes | None
    new: bytes | None


class Change(NamedTuple):
    """All that one transaction changes in one directory."""

    patches: tuple[FilePatch, ...] = ()
    replacements: tuple[Replacement, ...] = ()


def by_copy(change: Change) -> Change:
    """`change` with a changed copy for every file in which room has to be made."""
    return change._replace(
        patches=tuple(patch._replace(by_copy=patch.by_copy or patch.room_bytes > 0) for patch in change.patches)
    )


def check_plan(patch: FilePatch) -> None:
    """Raise RefusedError unless `patch` keeps to the rules of FilePatch.

    One that breaks them would write over bytes it has not kept, and could not be taken back.
    """
    problem = _problem_of(patch)
    if problem is not None:
        raise RefusedError(
            "the plan of this stamp would write over bytes that it does not keep",
            where=patch.name,
            expected="places of the file, each as long after the stamp as before, apart from the room made in it",
            found=problem,
            remedy="report it, with the output of apr inspect; nothing was changed",
            invariant="INV-STAMP-BYTES-001",
        )


def _problem_of(patch: FilePatch) -> str | None:
    room_offset_bytes, room_bytes = patch.room_offset_bytes, patch.room_bytes
    if room_bytes < 0 or not 0 <= room_offset_bytes <= patch.size_bytes:
        return f"{room_bytes} bytes of room at byte {room_offset_bytes} of {patch.size_bytes}"
    end = new_end = 0
    for splice in patch.splices:
        start, new_start = splice.old_offset_bytes, splice.new_offset_bytes
        is_behind = room_bytes > 0 and start > room_offset_bytes
        holds_room = room_bytes > 0 and start <= room_offset_bytes <= start + len(splice.old)
        if start < end or new_start < new_end or start + len(splice.old) > patch.size_bytes:
            return f"byte {start} to {start + len(splice.old)} of {patch.size_bytes}, behind byte {end}"
        if new_start != start + (room_bytes if is_behind else 0):
            return f"byte {start} that goes to byte {new_start}"
        if len(splice.new) != len(splice.old) + (room_bytes if holds_room else 0):
            return f"{len(splice.new)} bytes in the place of {len(splice.old)} at byte {start}"
        end, new_end = start + len(splice.old), new_start + len(splice.new)
    return None


def is_between(patch: FilePatch, current: list[bytes], *, has_room: bool) -> bool:
    """Whether a file that is partly changed can come from this patch: each byte is the old or the new one.

    current: what stands where each splice is, read at its new place when `has_room`, else at its old one.
    """
    return all(
        _is_mixture(now, *(_images_with_room if has_room else _images_without_room)(patch, splice))
        for now, splice in zip(current, patch.splices, strict=True)
    )


def _images_with_room(patch: FilePatch, splice: Splice) -> tuple[bytes, bytes]:
    if len(splice.old) == len(splice.new):
        return splice.old, splice.new
    cut = patch.room_offset_bytes - splice.old_offset_bytes
    return splice.old[:cut] + bytes(patch.room_bytes) + splice.old[cut:], splice.new


def _images_without_room(patch: FilePatch, splice: Splice) -> tuple[bytes, bytes]:
    if len(splice.old) == len(splice.new):
        return splice.old, splice.new
    cut = patch.room_offset_bytes - splice.old_offset_bytes
    return splice.old, splice.new[:cut] + splice.new[cut + patch.room_bytes :]


def _is_mixture(now: bytes, one: bytes, other: bytes) -> bool:
    if now in (one, other):
        return True
    return len(now) == len(one) and all(byte in pair for byte, *pair in zip(now, one, other, strict=True))
