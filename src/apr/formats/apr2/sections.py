"""The bounded first pass over an APR v2 file: header, metadata bytes, tensor index; each checked before it is read."""

from __future__ import annotations

from typing import NamedTuple

from apr.errors import DamagedFileError
from apr.formats.apr2.index import SMALLEST_ENTRY_BYTES, IndexEntry, unpack_index
from apr.formats.apr2.layout import (
    HEADER_BYTES,
    MAGIC,
    MOST_INDEX_BYTES,
    MOST_METADATA_BYTES,
    MOST_TENSORS,
    OLDER_MAGICS,
    VERSION,
    Flags,
    Header,
    header_checksum,
    unpack_header,
)
from apr.formats.damage import MAGIC_VALID, damaged
from apr.storage.reading import SourceFile

# A flag that says the bytes are not what this reader would take them for, and how the user gets a file it can read.
_REFUSED_FLAGS = {
    Flags.LZ4_COMPRESSED: ("the file is marked as LZ4-compressed", "write it again without --compress"),
    Flags.ZSTD_COMPRESSED: ("the file is marked as Zstandard-compressed", "write it again without --compress"),
    Flags.ENCRYPTED: ("the file is marked as encrypted", "decrypt it with the tool that encrypted it"),
    Flags.LAYOUT_COLUMN_MAJOR: ("the tensors are stored column-major", "import the model again from its source"),
}


class Sections(NamedTuple):
    """What stands before the tensors. index_end_bytes: where the last index entry ends in the file."""

    header: Header
    metadata: bytes
    entries: tuple[IndexEntry, ...]
    index_end_bytes: int
    index_padding: bytes


def read_sections(file: SourceFile) -> Sections:
    """Header, metadata bytes and index of `file`; raises DamagedFileError at the first contradiction."""
    header = _read_header(file)
    _check_section_order(file, header)
    metadata = file.read_at(header.metadata_offset_bytes, header.metadata_size_bytes, "the metadata")
    index = _read_index_bytes(file, header)

    def complain(what: str, offset_bytes: int, expected: str, found: str) -> DamagedFileError:
        place = header.index_offset_bytes + offset_bytes
        return damaged(what, path=file.path, offset_bytes=place, expected=expected, found=found)

    entries, length = unpack_index(index, header.tensor_count, complain)
    return Sections(header, metadata, tuple(entries), header.index_offset_bytes + length, index[length:])


def _read_header(file: SourceFile) -> Header:
    start = file.read_at(0, min(file.size_bytes, HEADER_BYTES), "the header")
    if not start.startswith(MAGIC):
        raise _wrong_magic(file, start)
    if len(start) < HEADER_BYTES:
        raise damaged(
            "the file ends inside the header",
            path=file.path,
            expected=f"{HEADER_BYTES} header bytes",
            found=f"a file of {file.size_bytes} bytes",
        )
    header = unpack_header(start)
    computed = header_checksum(start)
    if computed != header.checksum:
        raise damaged(
            "the header does not have the checksum it records",
            path=file.path,
            offset_bytes=0,
            expected=f"CRC32 {header.checksum:#010x}, as recorded",
            found=f"{computed:#010x}",
        )
    if (header.major, header.minor) != VERSION:
        raise damaged(
            "another version of the APR format",
            path=file.path,
            offset_bytes=4,
            expected="version {}.{}".format(*VERSION),
            found=f"version {header.major}.{header.minor}",
            remedy="import the model again from its source with a tool that writes APR 2.0",
        )
    for flag, (what, remedy) in _REFUSED_FLAGS.items():
        if header.flags & flag:
            expected, found = f"flag {flag.name} not set", f"flags {header.flags:#06x}"
            raise damaged(what, path=file.path, offset_bytes=6, expected=expected, found=found, remedy=remedy)
    return header


def _wrong_magic(file: SourceFile, start: bytes) -> DamagedFileError:
    if not start:
        what, remedy = "the file is empty", "fetch or write the file again"
    elif start[:4] in OLDER_MAGICS:
        what = f"an APR file of an older generation ({start[:4].decode()})"
        remedy = "import the model again from its source with upstream's `apr import`, which writes APR v2"
    else:
        what, remedy = "not an APR file", "check that the path names the checkpoint itself"
    return damaged(
        what,
        path=file.path,
        offset_bytes=0,
        expected=f"the magic bytes {MAGIC!r}",
        found=repr(start[:4]) if start else "0 bytes",
        invariant=MAGIC_VALID,
        remedy=remedy,
    )


def _check_section_order(file: SourceFile, header: Header) -> None:
    """Metadata, index and data lie in the file, behind the header, apart from each other, and are of sane size."""

    def complain(what: str, offset_bytes: int, expected: str, found: str) -> DamagedFileError:
        return damaged(what, path=file.path, offset_bytes=offset_bytes, expected=expected, found=found)

    metadata_end = header.metadata_offset_bytes + header.metadata_size_bytes
    if header.metadata_size_bytes > MOST_METADATA_BYTES:
        size = f"{header.metadata_size_bytes} bytes"
        raise complain(
            "the metadata is larger than the format allows", 20, f"at most {MOST_METADATA_BYTES} bytes", size
        )
    for what, offset_bytes, place in (
        ("the metadata", header.metadata_offset_bytes, 12),
        ("the tensor index", header.index_offset_bytes, 24),
        ("the tensor data", header.data_offset_bytes, 32),
    ):
        if offset_bytes < HEADER_BYTES:
            raise complain(f"{what} overlaps the header", place, f"an offset from {HEADER_BYTES}", str(offset_bytes))
        file.check_extent(offset_bytes, 0, what)
    file.check_extent(header.metadata_offset_bytes, header.metadata_size_bytes, "the metadata")
    if header.index_offset_bytes > header.data_offset_bytes:
        found = f"index at {header.index_offset_bytes}, data at {header.data_offset_bytes}"
        raise complain("the tensor index begins behind the tensor data", 24, "the index before the data", found)
    is_before = metadata_end <= header.index_offset_bytes
    is_behind = header.metadata_offset_bytes >= header.data_offset_bytes
    if header.metadata_size_bytes and not (is_before or is_behind):
        found = f"metadata to {metadata_end}, index at {header.index_offset_bytes}"
        raise complain("the metadata overlaps the tensor index", 12, "sections apart from each other", found)


def _read_index_bytes(file: SourceFile, header: Header) -> bytes:
    size_bytes = header.data_offset_bytes - header.index_offset_bytes
    most_tensors = min(MOST_TENSORS, size_bytes // SMALLEST_ENTRY_BYTES)
    if header.tensor_count > most_tensors or size_bytes > MOST_INDEX_BYTES:
        raise damaged(
            "the header counts more tensors than its index can hold",
            path=file.path,
            offset_bytes=8,
            expected=f"at most {most_tensors} tensors in an index of at most {MOST_INDEX_BYTES} bytes",
            found=f"{header.tensor_count} tensors, {size_bytes} bytes",
        )
    return file.read_at(header.index_offset_bytes, size_bytes, "the tensor index")
