"""Other `__metadata__` for a safetensors file, where it stands: the header changes, no tensor is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from apr.errors import UsageError
from apr.formats.safetensors.header import LENGTH, LONGEST_HEADER_BYTES, METADATA_KEY
from apr.storage.patches import FilePatch, Splice
from apr.storage.reading import SourceFile

SPARE_BYTES = 4096
"""Room kept behind metadata that had to grow, so that the next stamps fit."""

SMALL_HEADER_BYTES = 16 << 10
"""A header up to this size is rather written anew into its own padding than moved."""

_FRONT = b'{"' + METADATA_KEY.encode() + b'":'


def plan_metadata_patch(file: SourceFile, metadata: Mapping[str, str]) -> FilePatch:
    """The patch that gives `file` the texts `metadata`.

    The texts stand first in the header, and JSON allows spaces behind them: they take up what shorter texts leave, so
    that the entries of the tensors stay where they are. Where the texts must grow past that, the padding at the end of
    a small header is used, else whole blocks of the file system are put in before the entries, which keeps the data
    aligned. What is written does not depend on the number of tensors.
    """
    (length,) = LENGTH.unpack(file.read_at(0, LENGTH.size, "the header length"))
    text = file.read_at(LENGTH.size, length, "the header")
    front = _FRONT + _encoded(dict(metadata))
    slot_bytes, comma, entries = _slot(text)
    if entries is not None:  # They do not stand where they will: everything is written anew.
        front, slot_bytes, comma = front + entries, len(text), b""
    missing = len(front) + len(comma) - slot_bytes
    if missing <= 0:
        return _patch(file, text, slot_bytes, front.ljust(slot_bytes - len(comma)) + comma, 0)
    packed = text.rstrip(b" ")
    # Entries that move took all of the header, the padding at its end too.
    padding_bytes = len(text) - len(packed) if entries is None else 0
    if missing <= padding_bytes and len(text) <= SMALL_HEADER_BYTES:
        return _patch(file, text, len(text), (front + comma + packed[slot_bytes:]).ljust(len(text)), 0)
    block_bytes = max(os.fstatvfs(file.fileno()).f_bsize, SPARE_BYTES)
    room_bytes = -(-(missing + SPARE_BYTES) // block_bytes) * block_bytes
    if length + room_bytes > LONGEST_HEADER_BYTES:
        raise UsageError(
            "the header would be longer than safetensors readers accept",
            where=str(file.path),
            expected=f"at most {LONGEST_HEADER_BYTES} bytes",
            found=f"{length + room_bytes} bytes",
        )
    return _patch(file, text, slot_bytes, front.ljust(slot_bytes + room_bytes - len(comma)) + comma, room_bytes)


def _slot(text: bytes) -> tuple[int, bytes, bytes | None]:
    """The bytes in front of the entries that the texts may take, the comma to add, and entries that have to move.

    Without texts the slot is the opening brace.
    """
    if text.startswith(_FRONT):
        decoded = text.decode()
        start = len(_FRONT) + _leading_spaces(decoded[len(_FRONT) :])
        _, end = json.JSONDecoder().raw_decode(decoded, start)
        return len(decoded[:end].encode()) + _leading_spaces(decoded[end:]), b"", None
    document = json.loads(text)
    texts = document.pop(METADATA_KEY, None)
    comma = b"," if document else b""
    return (1, comma, None) if texts is None else (0, b"", comma + _encoded(document)[1:])


def _leading_spaces(text: str) -> int:
    return len(text) - len(text.lstrip(" \t\r\n"))


def _patch(file: SourceFile, text: bytes, replaced_bytes: int, new: bytes, room_bytes: int) -> FilePatch:
    old_head = LENGTH.pack(len(text)) + text[:replaced_bytes]
    new_head = LENGTH.pack(len(text) + room_bytes) + new
    return FilePatch(file.path.name, file.size_bytes, 0, room_bytes, (Splice(0, old_head, 0, new_head),))


def _encoded(document: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError("the metadata holds half of a surrogate pair, which has no UTF-8 form") from error
