"""A changed copy of a file: its blocks shared with the original, else copied by the kernel, else read and written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from apr.errors import InputOutputError
from apr.storage import operations
from apr.storage.patches import FilePatch, check_plan

Progress = Callable[[int], None]
"""Told of the bytes of the source that are done since the last call."""

# One call at a time, so that progress is seen and an interrupt is not kept waiting.
_AT_ONCE_BYTES = 256 << 20
_BUFFER_BYTES = 4 << 20


def copy_patched(source: int, target: int, patch: FilePatch, progress: Progress | None = None) -> int:
    """Write into the empty file `target` what `source` would be after `patch`; both are descriptors.

    Returns the bytes that were copied: 0 where all blocks are shared with the source. Room is made while copying, and
    holes of the source stay holes. Raises InputOutputError when the source is not as long as the patch expects it.
    """
    check_plan(patch)
    room_offset_bytes = patch.room_offset_bytes if patch.room_bytes else patch.size_bytes
    copied_bytes = _copy(source, target, 0, room_offset_bytes, 0, progress, is_end=not patch.room_bytes)
    operations.resize(target, room_offset_bytes + patch.room_bytes)
    if patch.room_bytes:
        rest_bytes = patch.size_bytes - room_offset_bytes
        copied_bytes += _copy(source, target, room_offset_bytes, rest_bytes, patch.room_bytes, progress, is_end=True)
    operations.resize(target, patch.new_size_bytes)
    if os.fstat(source).st_size != patch.size_bytes:
        raise _changed_size()
    for splice in patch.splices:
        operations.write(target, splice.new, splice.new_offset_bytes)
    return copied_bytes


def copy_file(source: Path, target: Path, patch: FilePatch | None = None, progress: Progress | None = None) -> int:
    """Make the file `target`, which does not exist, what `source` is (a link is followed) or would be after `patch`.

    Returns as `copy_patched`; the caller syncs.
    """
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = operations.create(target, 0o666)
        try:
            whole = FilePatch(source.name, os.fstat(reading).st_size, 0, 0, ())
            return copy_patched(reading, writing, patch or whole, progress)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy(
    source: int,
    target: int,
    offset_bytes: int,
    size_bytes: int,
    shift_bytes: int,
    progress: Progress | None,
    *,
    is_end: bool,
) -> int:
    """`size_bytes` of `source` from `offset_bytes` to `target`, `shift_bytes` further on; how many were copied."""
    if size_bytes == 0:
        return 0
    tell = progress or (lambda _: None)
    try:
        operations.clone_range(source, target, offset_bytes, 0 if is_end else size_bytes, offset_bytes + shift_bytes)
    except operations.NotOfferedError:
        pass
    else:
        tell(size_bytes)
        return 0
    position = offset_bytes
    copied_bytes = 0
    for start, end in _data_extents(source, offset_bytes, offset_bytes + size_bytes):
        tell(start - position)
        for count in _copied(source, target, start, end, shift_bytes):
            tell(count)
        copied_bytes += end - start
        position = end
    tell(offset_bytes + size_bytes - position)
    return copied_bytes


def _copied(source: int, target: int, start: int, end: int, shift_bytes: int) -> Iterator[int]:
    """Copy `source[start:end]`, and yield the bytes of each step."""
    has_kernel_copy = True
    while start < end:
        if has_kernel_copy:
            try:
                count = operations.copy_range(
                    source, target, start, min(end - start, _AT_ONCE_BYTES), start + shift_bytes
                )
            except operations.NotOfferedError:
                has_kernel_copy = False
                continue
        else:
            data = os.pread(source, min(end - start, _BUFFER_BYTES), start)
            operations.write(target, data, start + shift_bytes)
            count = len(data)
        if count == 0:
            raise _changed_size()
        yield count
        start += count


def _data_extents(source: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of `source[start:end]` that are no holes, in order; everything where holes cannot be asked for."""
    while start < end:
        try:
            data = os.lseek(source, start, os.SEEK_DATA)
            hole = os.lseek(source, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole follows.
                yield start, end
            return
        if data < end:
            yield data, min(hole, end)
        start = hole


def _changed_size() -> InputOutputError:
    return InputOutputError(
        "the file changed its size while it was copied", remedy="let its writer finish, then run again"
    )
