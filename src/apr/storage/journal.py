"""The journal of a change in place: what was and what will be, written and synced beside the file before it changes.

A journal that is whole makes the change certain: whoever opens the file next finishes it. One that is not whole means
that nothing was changed yet. Form: magic, length of a JSON description, the description, the bytes it counts, CRC32
of everything before. The description also says which files it is about (`FileId`), under a key of its own, which
earlier versions of apr pass over; journals of these do not say it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any

from apr.storage.checksums import crc32
from apr.storage.patches import Change, FileId, FilePatch, Replacement, Splice

SUFFIX = ".apr-journal"
NEW_SUFFIX = ".apr-new"
ASIDE_SUFFIX = ".apr-aside"
DIRECTORY_JOURNAL_NAME = ".apr-journal"
MAGIC = b"APRJRNL1"
MOST_JOURNAL_BYTES = 1 << 30

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_LONGEST_NAME_BYTES = 255


def journal_of_file(path: Path) -> Path:
    """Where the journal of the file `path` (no symbolic link) stands."""
    return _beside(path, SUFFIX)


def journal_of_directory(directory: Path) -> Path:
    """Where the journal of a change to several files of `directory` stands."""
    return directory / DIRECTORY_JOURNAL_NAME


def new_beside(path: Path) -> Path:
    """Where what will take the place of `path` stands until then."""
    return _beside(path, NEW_SUFFIX)


def aside_of(path: Path) -> Path:
    """Where `path` stands for the instant in which two files change places by renames."""
    return _beside(path, ASIDE_SUFFIX)


def _beside(path: Path, suffix: str) -> Path:
    name = f".{path.name}{suffix}"
    raw = os.fsencode(name)
    if len(raw) > _LONGEST_NAME_BYTES:
        tag = f"{crc32(raw):08x}"
        name = raw[: _LONGEST_NAME_BYTES - len(suffix) - len(tag)].decode(errors="ignore") + tag + suffix
    return path.parent / name


def encode_journal(change: Change) -> bytes:
    """The bytes of the journal of `change`."""
    blobs: list[bytes] = []

    def count(data: bytes | None) -> int | None:
        if data is not None:
            blobs.append(data)
        return None if data is None else len(data)

    patches = [
        [
            patch.name,
            patch.size_bytes,
            patch.room_offset_bytes,
            patch.room_bytes,
            [
                [splice.old_offset_bytes, count(splice.old), splice.new_offset_bytes, count(splice.new)]
                for splice in patch.splices
            ],
            patch.by_copy,
        ]
        for patch in change.patches
    ]
    replacements = [[each.name, count(each.old), count(each.new)] for each in change.replacements]
    files = {patch.name: [patch.source, patch.copy] for patch in change.patches if patch.source is not None}
    description = json.dumps({"patches": patches, "replacements": replacements, "files": files}).encode()
    body = b"".join((MAGIC, _LENGTH.pack(len(description)), description, *blobs))
    return body + _CHECKSUM.pack(crc32(body))


def decode_journal(data: bytes) -> Change | None:
    """The change in `data`; None when the journal is not whole, which means that it never took effect."""
    head = len(MAGIC) + _LENGTH.size
    if len(data) < head + _CHECKSUM.size or not data.startswith(MAGIC):
        return None
    body = data[: -_CHECKSUM.size]
    if _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != crc32(body):
        return None
    (length,) = _LENGTH.unpack_from(data, len(MAGIC))
    try:
        return _change(json.loads(body[head : head + length]), _blobs(body[head + length :]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, StopIteration):
        return None


def _blobs(data: bytes) -> Generator[bytes, int, None]:
    """Gives the next `count` bytes for each count sent to it."""
    position, taken = 0, b""
    while True:
        count = yield taken
        if not 0 <= count <= len(data) - position:
            raise ValueError("a part of the journal is missing")
        taken, position = data[position : position + count], position + count


def _change(description: Any, blobs: Any) -> Change:
    next(blobs)

    def take(count: int | None) -> bytes | None:
        return None if count is None else blobs.send(count)

    files = description.get("files", {})
    patches = tuple(
        FilePatch(
            _plain_name(name),
            int(size),
            int(room_offset),
            int(room),
            tuple(
                Splice(int(old_offset), take(old) or b"", int(new_offset), take(new) or b"")
                for old_offset, old, new_offset, new in splices
            ),
            bool(by_copy),
            *map(_file_id, files.get(name, (None, None))),
        )
        for name, size, room_offset, room, splices, by_copy in description["patches"]
    )
    replacements = tuple(
        Replacement(_plain_name(name), take(old), take(new)) for name, old, new in description["replacements"]
    )
    return Change(patches, replacements)


def _file_id(numbers: Any) -> FileId | None:
    return None if numbers is None else FileId(*(int(number) for number in numbers))


def _plain_name(name: str) -> str:
    """A journal from elsewhere must not lead out of the directory it stands in."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no name of a file in this directory")
    return name
