"""A change to a file where it stands, as data: which bytes become which, and where room is made between them."""

from __future__ import annotations

from typing import NamedTuple


class Splice(NamedTuple):
    """`old`, which stood at `old_offset_bytes` before, becomes `new` at `new_offset_bytes` of the changed file."""

    old_offset_bytes: int
    old: bytes
    new_offset_bytes: int
    new: bytes


class FilePatch(NamedTuple):
    """The change to the file `name` of one directory.

    room_bytes zeros appear at room_offset_bytes (whole blocks; 0: none), then the splices are written. A splice that
    begins at or before the room and ends at or behind it has a `new` that is longer by the room; one behind it moves.
    by_copy: the file system cannot make the room, so a changed copy takes the place of the file.
    """

    name: str
    size_bytes: int
    room_offset_bytes: int
    room_bytes: int
    splices: tuple[Splice, ...]
    by_copy: bool = False

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
        patches=tuple(patch._replace(by_copy=True) if patch.room_bytes else patch for patch in change.patches)
    )


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
