"""The fixed part of APR v2: 64-byte header, flags, dtype codes. See `docs/format-apr2.md`; all little-endian."""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import NamedTuple

from apr.formats.dtypes import DType
from apr.storage.checksums import crc32

MAGIC = b"APR\0"
OLDER_MAGICS = (b"APRN", b"APR1", b"APR2")
VERSION = (2, 0)
HEADER_BYTES = 64
ALIGNMENT_BYTES = 64
FOOTER_BYTES = 4

# Upstream's cap for metadata and limits of its tensor index.
MOST_METADATA_BYTES = 16 << 20
LONGEST_NAME_BYTES = 256
MOST_DIMENSIONS = 8

# Ours, against hostile counts: larger than any published model needs (200,000 expert tensors take 20 MB).
MOST_INDEX_BYTES = 64 << 20
MOST_TENSORS = 1_000_000

# Bytes 0..40; the checksum follows, then 20 reserved bytes.
_HEADER = struct.Struct("<4sBBHIQIQQ")
_CHECKSUM = struct.Struct("<I")
RESERVED_FROM_BYTE = _HEADER.size + _CHECKSUM.size


class Flags(IntFlag):
    """Header flags; the names are upstream's."""

    LZ4_COMPRESSED = 0x0001
    ZSTD_COMPRESSED = 0x0002
    ENCRYPTED = 0x0004
    SIGNED = 0x0008
    SHARDED = 0x0010
    QUANTIZED = 0x0020
    HAS_FILTERBANK = 0x0040
    HAS_MODEL_CARD = 0x0080
    STREAMING = 0x0100
    HAS_VOCAB = 0x0200
    LAYOUT_ROW_MAJOR = 0x0400
    LAYOUT_COLUMN_MAJOR = 0x0800


ALL_FLAGS = 0x0FFF

DTYPE_CODES: dict[DType, int] = {
    DType.F32: 0,
    DType.F16: 1,
    DType.F64: 3,
    DType.I32: 4,
    DType.I64: 5,
    DType.I8: 6,
    DType.U8: 7,
    DType.Q4_K: 12,
    DType.Q6_K: 14,
    DType.BF16: 30,
    DType.APR_Q4: 128,
    DType.APR_Q8: 129,
}

# Codes of older writers: BF16 moved from 2 to 30, the two own quantisations from 8 and 9 to 128 and 129.
_LEGACY_CODES = {2: DType.BF16, 8: DType.APR_Q4, 9: DType.APR_Q8}

DTYPE_OF_CODE: dict[int, DType] = {code: dtype for dtype, code in DTYPE_CODES.items()} | _LEGACY_CODES


class Header(NamedTuple):
    """The decoded header. Offsets count from the start of the file; `checksum` is the stored one.

    metadata_size_bytes is without padding; tensor offsets in the index are relative to `data_offset_bytes`.
    """

    major: int
    minor: int
    flags: int
    tensor_count: int
    metadata_offset_bytes: int
    metadata_size_bytes: int
    index_offset_bytes: int
    data_offset_bytes: int
    checksum: int


def aligned(size_bytes: int) -> int:
    """`size_bytes` rounded up to the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def header_checksum(header: bytes) -> int:
    """CRC32 of the header without its checksum field (left out, not zeroed)."""
    return crc32(header[RESERVED_FROM_BYTE:HEADER_BYTES], crc32(header[: _HEADER.size]))


def pack_header(
    *,
    flags: int,
    tensor_count: int,
    metadata_size_bytes: int,
    index_offset_bytes: int,
    data_offset_bytes: int,
    metadata_offset_bytes: int = HEADER_BYTES,
) -> bytes:
    """The 64 header bytes with their checksum."""
    fields = _HEADER.pack(
        MAGIC,
        *VERSION,
        flags,
        tensor_count,
        metadata_offset_bytes,
        metadata_size_bytes,
        index_offset_bytes,
        data_offset_bytes,
    )
    reserved = bytes(HEADER_BYTES - RESERVED_FROM_BYTE)
    return fields + _CHECKSUM.pack(crc32(reserved, crc32(fields))) + reserved


def unpack_header(header: bytes) -> Header:
    """The fields of 64 header bytes, unchecked (the magic is not looked at)."""
    _, *fields = _HEADER.unpack_from(header)
    return Header(*fields, *_CHECKSUM.unpack_from(header, _HEADER.size))
