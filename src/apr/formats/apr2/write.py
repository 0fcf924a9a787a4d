"""Write an APR v2 file: everything that stands before the tensors is known from their shapes, then one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from apr.errors import UsageError
from apr.formats.apr2.index import IndexEntry, pack_index
from apr.formats.apr2.layout import (
    DTYPE_CODES,
    FOOTER_BYTES,
    HEADER_BYTES,
    LONGEST_NAME_BYTES,
    MOST_DIMENSIONS,
    Flags,
    aligned,
    pack_header,
)
from apr.formats.apr2.metadata import Spelling
from apr.formats.apr2.metadata_text import encode_metadata
from apr.formats.apr2.tokenizer import FILES_KEY, TENSOR_PREFIX
from apr.formats.recorded import RECORDED_METADATA_KEY
from apr.formats.writing import TensorToWrite, WrittenFile, check_tensors, stored_chunks
from apr.storage.atomic import atomic_file
from apr.storage.checksums import Blake3, crc32


def write_apr2(
    path: Path,
    *,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorToWrite],
    flags: Flags | None = None,
    spelling: Spelling = Spelling.OMITTED,
    metadata_slack_bytes: int = 0,
) -> WrittenFile:
    """Write `tensors` with `metadata` to `path`, atomically; one tensor chunk is in memory at a time.

    flags: None sets row-major, and HAS_VOCAB when the metadata or the tensors carry a tokenizer. Index and data are
    sorted by name in byte order, every section and tensor starts on a multiple of 64 bytes. metadata_slack_bytes: room
    for metadata that grows later, zeros behind what is there now; its recorded size stays exact, and the tensor index
    lies that much further on, which every reader follows. Raises UsageError when the format cannot hold
    a tensor, when a tensor yields another number of bytes than announced, or when the digests recorded in the metadata
    are not those of the bytes; InputOutputError when the operating system refuses.
    """
    path = Path(path)
    _check_storable(tensors)
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
    if flags is None:
        flags = default_flags(metadata, tensors)
    head = _head(encode_metadata(metadata, spelling), ordered, flags, metadata_slack_bytes)
    with atomic_file(path) as file:
        output = _SummedOutput(file)
        output.write(head)
        digests = {tensor.name: _write_tensor(output, tensor) for tensor in ordered}
        _check_recorded_digests(metadata, digests)
        file.write(output.checksum.to_bytes(FOOTER_BYTES, "little"))
        size_bytes = output.written_bytes + FOOTER_BYTES
    return WrittenFile(path, size_bytes, digests)


def default_flags(metadata: Mapping[str, Any], tensors: Sequence[TensorToWrite]) -> Flags:
    """Row-major, and HAS_VOCAB when a tokenizer is carried in any of its forms."""
    carries_tokenizer = (
        bool(metadata.get(FILES_KEY))
        or bool(metadata.get("tokenizer.vocabulary"))
        or any(tensor.name.startswith(TENSOR_PREFIX) for tensor in tensors)
    )
    return Flags.LAYOUT_ROW_MAJOR | (Flags.HAS_VOCAB if carries_tokenizer else Flags(0))


class _SummedOutput:
    """Counts the bytes and carries the CRC32 of everything written so far, for the footer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.checksum = 0
        self.written_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.checksum = crc32(data, self.checksum)
        self.written_bytes += len(data)

    def pad(self) -> None:
        self.write(bytes(aligned(self.written_bytes) - self.written_bytes))


def _write_tensor(output: _SummedOutput, tensor: TensorToWrite) -> str:
    hasher = Blake3()
    for chunk in stored_chunks(tensor):
        output.write(chunk)
        hasher.update(chunk)
    output.pad()
    return hasher.hexdigest()


def _head(metadata: bytes, ordered: Sequence[TensorToWrite], flags: Flags, metadata_slack_bytes: int) -> bytes:
    """Header, metadata and index with their padding."""
    entries = []
    offset_bytes = 0
    for tensor in ordered:
        entries.append(IndexEntry(tensor.name, tensor.dtype, tensor.shape, offset_bytes, tensor.size_bytes))
        offset_bytes = aligned(offset_bytes + tensor.size_bytes)
    index = pack_index(entries)
    index_offset_bytes = HEADER_BYTES + aligned(len(metadata) + metadata_slack_bytes)
    data_offset_bytes = index_offset_bytes + aligned(len(index))
    header = pack_header(
        flags=flags,
        tensor_count=len(entries),
        metadata_size_bytes=len(metadata),
        index_offset_bytes=index_offset_bytes,
        data_offset_bytes=data_offset_bytes,
    )
    return (header + metadata).ljust(index_offset_bytes, b"\0") + index.ljust(aligned(len(index)), b"\0")


def _check_storable(tensors: Sequence[TensorToWrite]) -> None:
    check_tensors(tensors)
    for tensor in tensors:
        where = f"tensor {tensor.name}"
        if tensor.dtype not in DTYPE_CODES:
            known = ", ".join(DTYPE_CODES)
            raise UsageError(
                "APR v2 has no code for this dtype",
                where=where,
                expected=f"one of {known}",
                found=str(tensor.dtype),
                remedy="convert the tensor first, or export to safetensors",
            )
        try:
            length = len(tensor.name.encode())
        except UnicodeEncodeError as error:
            raise UsageError("a tensor name has no UTF-8 form", where=repr(tensor.name)) from error
        if length > LONGEST_NAME_BYTES:
            raise UsageError(
                "a tensor name is too long for APR v2",
                where=where,
                expected=f"at most {LONGEST_NAME_BYTES} bytes",
                found=f"{length} bytes",
            )
        if len(tensor.shape) > MOST_DIMENSIONS:
            raise UsageError(
                "a tensor has too many dimensions for APR v2",
                where=where,
                expected=f"at most {MOST_DIMENSIONS}",
                found=str(len(tensor.shape)),
            )


def _check_recorded_digests(metadata: Mapping[str, Any], written: Mapping[str, str]) -> None:
    recorded = metadata.get(RECORDED_METADATA_KEY)
    digests = recorded.get("tensor_digests") if isinstance(recorded, Mapping) else None
    if not isinstance(digests, Mapping):
        return
    wrong = [name for name, digest in digests.items() if written.get(name) != digest]
    if wrong:
        raise UsageError(
            f"{len(wrong)} digests in the record are not those of the tensors written",
            where=f"tensor {wrong[0]}",
            expected=f"blake3 {digests[wrong[0]]}",
            found=f"blake3 {written[wrong[0]]}" if wrong[0] in written else "no such tensor",
            remedy="record the digests of these tensors (apr.formats.writing.tensor_digests), then write again",
        )
