"""Other `__metadata__` for a safetensors file, where it stands: the header changes, no tensor is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from apr.errors import UsageError
from apr.formats.json_text import parse_object
from apr.formats.safetensors.header import LENGTH, LONGEST_HEADER_BYTES, METADATA_KEY
from apr.storage.patches import FilePatch, Splice
from apr.storage.reading import SourceFile

SPARE_BYTES = 4096
"""Room kept in a header that had to grow, so that the next stamps fit."""


def plan_metadata_patch(file: SourceFile, metadata: Mapping[str, str]) -> FilePatch:
    """The patch that gives `file` the texts `metadata`.

    The format allows spaces behind the header's JSON: they take up what a shorter header leaves. Where the header must
    grow, whole blocks of the file system are put in before the data, so that the data keeps its alignment.
    """
    (length,) = LENGTH.unpack(file.read_at(0, LENGTH.size, "the header length"))
    old_head = file.read_at(0, LENGTH.size + length, "the header")
    document = parse_object(old_head[LENGTH.size :], path=file.path, place="safetensors header")
    document.pop(METADATA_KEY, None)
    text = _encoded({METADATA_KEY: dict(metadata), **document} if metadata else document)
    block_bytes = max(os.fstatvfs(file.fileno()).f_bsize, SPARE_BYTES)
    missing = len(text) - length
    room_bytes = -(-(missing + SPARE_BYTES) // block_bytes) * block_bytes if missing > 0 else 0
    new_length = length + room_bytes
    if new_length > LONGEST_HEADER_BYTES:
        raise UsageError(
            "the header would be longer than safetensors readers accept",
            where=str(file.path),
            expected=f"at most {LONGEST_HEADER_BYTES} bytes",
            found=f"{new_length} bytes",
        )
    new_head = LENGTH.pack(new_length) + text.ljust(new_length)
    room_offset_bytes = len(old_head) // block_bytes * block_bytes
    splice = Splice(0, old_head, 0, new_head)
    return FilePatch(file.path.name, file.size_bytes, room_offset_bytes, room_bytes, (splice,))


def _encoded(document: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError("the metadata holds half of a surrogate pair, which has no UTF-8 form") from error
