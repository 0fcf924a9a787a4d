"""A changed copy of a file: streamed by the kernel, shared with the original where the file system can."""

from __future__ import annotations

import os
from pathlib import Path

from apr.errors import InputOutputError
from apr.storage import operations
from apr.storage.patches import FilePatch

_AT_ONCE_BYTES = 1 << 30
_BUFFER_BYTES = 1 << 20


def copy_patched(source: int, target: int, patch: FilePatch) -> None:
    """Write into the empty file `target` what `source` would be after `patch`; both are descriptors."""
    room_offset_bytes = patch.room_offset_bytes if patch.room_bytes else patch.size_bytes
    _copy(source, target, 0, room_offset_bytes, 0)
    os.ftruncate(target, room_offset_bytes + patch.room_bytes)
    _copy(source, target, room_offset_bytes, patch.size_bytes - room_offset_bytes, patch.room_bytes)
    for splice in patch.splices:
        operations.write(target, splice.new, splice.new_offset_bytes)


def apply_patch(path: Path, patch: FilePatch) -> None:
    """Change the file `path`, which nobody else sees yet, without a journal."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if patch.room_bytes:
            try:
                operations.insert_range(descriptor, patch.room_offset_bytes, patch.room_bytes)
            except operations.NoRoomError:
                _move_up(descriptor, patch)
        for splice in patch.splices:
            operations.write(descriptor, splice.new, splice.new_offset_bytes)
        operations.sync(descriptor)
    finally:
        os.close(descriptor)


def _move_up(descriptor: int, patch: FilePatch) -> None:
    """Shift everything behind the room, from the end on, as the two places overlap."""
    end = patch.size_bytes
    while end > patch.room_offset_bytes:
        start = max(patch.room_offset_bytes, end - _BUFFER_BYTES)
        operations.write(descriptor, os.pread(descriptor, end - start, start), start + patch.room_bytes)
        end = start


def _copy(source: int, target: int, offset_bytes: int, size_bytes: int, shift_bytes: int) -> None:
    """`size_bytes` of `source` from `offset_bytes` to `target`, `shift_bytes` further on."""
    end = offset_bytes + size_bytes
    while offset_bytes < end:
        wanted = min(end - offset_bytes, _AT_ONCE_BYTES)
        try:
            count = os.copy_file_range(source, target, wanted, offset_bytes, offset_bytes + shift_bytes)
        except OSError:
            data = os.pread(source, min(wanted, _BUFFER_BYTES), offset_bytes)
            operations.write(target, data, offset_bytes + shift_bytes)
            count = len(data)
        if count == 0:
            raise InputOutputError(
                "the file shrank while it was copied", remedy="let its writer finish, then run again"
            )
        offset_bytes += count
