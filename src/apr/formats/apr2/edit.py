"""Other metadata for an APR v2 file, where it stands: header, metadata and footer change, no tensor is read or moved.

CRC32 is linear: from the old footer and the old head follows the sum of everything behind the head, and from that and
the new head the new footer. A footer that was wrong stays wrong by the same difference, so damage is not sealed.
"""

from __future__ import annotations

import os

from apr.formats.apr2.extents import NO_FOOTER
from apr.formats.apr2.layout import FOOTER_BYTES, HEADER_BYTES, aligned, pack_header, unpack_header
from apr.formats.base import Checkpoint
from apr.storage.checksums import crc32, crc32_combine
from apr.storage.patches import FilePatch, Splice

SPARE_BYTES = 4096
"""Room kept behind metadata that had to move, so that the next stamps fit."""


def plan_metadata_patch(checkpoint: Checkpoint, metadata: bytes, flags: int) -> FilePatch | None:
    """The patch that gives the file of `checkpoint` the encoded `metadata` and header `flags`.

    None when its metadata does not stand in front, where a header written by anybody we know has it.
    Where the metadata outgrows its slot, whole blocks of the file system are put in before the tensor index, so that
    alignment holds and metadata stays in front.
    """
    file = checkpoint.files[0]
    header = unpack_header(file.read_at(0, HEADER_BYTES, "the header"))
    if header.metadata_offset_bytes != HEADER_BYTES:
        return None
    block_bytes = max(os.fstatvfs(file.fileno()).f_bsize, SPARE_BYTES)
    missing = HEADER_BYTES + len(metadata) - header.index_offset_bytes
    room_bytes = -(-(missing + SPARE_BYTES) // block_bytes) * block_bytes if missing > 0 else 0
    room_offset_bytes = header.index_offset_bytes // block_bytes * block_bytes
    old_end = HEADER_BYTES + aligned(max(header.metadata_size_bytes, len(metadata)))
    old_end = header.index_offset_bytes if room_bytes else min(old_end, header.index_offset_bytes)
    old_head = file.read_at(0, old_end, "the head of the file")
    new_header = pack_header(
        flags=flags,
        tensor_count=header.tensor_count,
        metadata_size_bytes=len(metadata),
        index_offset_bytes=header.index_offset_bytes + room_bytes,
        data_offset_bytes=header.data_offset_bytes + room_bytes,
    )
    new_head = (new_header + metadata).ljust(old_end + room_bytes, b"\0")
    splices = [Splice(0, old_head, 0, new_head)]
    if all(problem.what != NO_FOOTER for problem in checkpoint.problems):
        offset_bytes = file.size_bytes - FOOTER_BYTES
        old_footer = file.read_at(offset_bytes, FOOTER_BYTES, "the footer")
        new_footer = footer_after(old_footer, old_head, new_head, offset_bytes - len(old_head))
        splices.append(Splice(offset_bytes, old_footer, offset_bytes + room_bytes, new_footer))
    return FilePatch(file.path.name, file.size_bytes, room_offset_bytes, room_bytes, tuple(splices))


def footer_after(old_footer: bytes, old_head: bytes, new_head: bytes, rest_bytes: int) -> bytes:
    """The footer of a file whose head changed; `rest_bytes` between head and footer are the same as before."""
    old_sum = int.from_bytes(old_footer, "little")
    rest_sum = old_sum ^ crc32_combine(crc32(old_head), 0, rest_bytes)
    return crc32_combine(crc32(new_head), rest_sum, rest_bytes).to_bytes(FOOTER_BYTES, "little")
