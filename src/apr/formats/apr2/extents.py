"""Where the tensors of an APR v2 file lie: inside the file, apart from each other, as large as dtype and shape say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from apr.formats.apr2.index import IndexEntry
from apr.formats.apr2.layout import ALIGNMENT_BYTES, FOOTER_BYTES, aligned
from apr.formats.apr2.sections import Sections
from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.damage import damaged
from apr.formats.dtypes import DType, stored_size_bytes
from apr.storage.reading import SourceFile

# Names a tied output head goes by, at any depth and only at the top; only such a tensor may be stored as zero bytes.
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "predictions.decoder.weight")
_TOP_HEAD_NAMES = ("output.weight", "head.weight")

NO_FOOTER = "the file has no footer, so flipped bytes cannot be found"
"""`IntegrityProblem.what` of a file that ends with its last tensor."""


def place_tensors(file: SourceFile, sections: Sections) -> tuple[list[TensorEntry], list[IntegrityProblem], bool]:
    """The tensors with absolute offsets, contradictions that do not stop reading, and whether there is a footer.

    Raises DamagedFileError when the file ends before its tensors do, tensors overlap each other or another section, or
    a size does not follow from dtype and shape.
    """
    data_offset_bytes = sections.header.data_offset_bytes
    entries = []
    problems = []
    for each in sections.entries:
        _check_size(file, each)
        offset_bytes = data_offset_bytes + each.offset_bytes
        entry = TensorEntry(each.name, each.dtype, each.shape, file, offset_bytes, each.size_bytes)
        entries.append(entry)
        if entry.is_placeholder and not is_head_name(entry.name):
            problems.append(
                _problem(entry, "a tensor is stored as zero bytes", "bytes, or a tied output head", "0 bytes")
            )
        if each.offset_bytes % ALIGNMENT_BYTES:
            expected = f"a multiple of {ALIGNMENT_BYTES} from the data offset"
            problems.append(_problem(entry, "a tensor is not aligned", expected, str(each.offset_bytes)))
    has_footer, tail_problems = _check_end(file, entries, sections)
    _check_overlaps(file, entries, sections)
    return entries, problems + tail_problems, has_footer


def is_head_name(name: str) -> bool:
    """Whether `name` is one that an output head tied to the embedding goes by."""
    return name in _TOP_HEAD_NAMES or any(f".{name}".endswith(f".{head}") for head in _HEAD_NAMES)


def padded_rows_size_bytes(dtype: DType, shape: Sequence[int]) -> int:
    """Bytes of a block-quantised matrix whose rows are each padded to whole blocks."""
    row_length = shape[-1] if shape else 1
    return math.prod(shape[:-1]) * stored_size_bytes(dtype, row_length)


def _check_size(file: SourceFile, entry: IndexEntry) -> None:
    sizes = {stored_size_bytes(entry.dtype, math.prod(entry.shape))}
    if entry.dtype in (DType.Q4_K, DType.Q6_K):
        sizes.add(padded_rows_size_bytes(entry.dtype, entry.shape))
    if entry.size_bytes and entry.size_bytes not in sizes:
        raise damaged(
            "the size of a tensor does not follow from its dtype and shape",
            path=file.path,
            place=f"tensor {entry.name}",
            expected=f"{' or '.join(map(str, sorted(sizes)))} bytes for {entry.dtype} {list(entry.shape)}",
            found=f"{entry.size_bytes} bytes",
        )


def _check_end(
    file: SourceFile, entries: Sequence[TensorEntry], sections: Sections
) -> tuple[bool, list[IntegrityProblem]]:
    """Files without the 4 footer bytes are in circulation: read, but reported. Any other missing byte is damage."""
    header = sections.header
    data_offset_bytes = header.data_offset_bytes
    end = max(
        (data_offset_bytes + aligned(entry.offset_bytes - data_offset_bytes + entry.size_bytes) for entry in entries),
        default=data_offset_bytes,
    )
    end = max(end, header.metadata_offset_bytes + header.metadata_size_bytes)
    extra = file.size_bytes - end - FOOTER_BYTES
    where = f"{file.path} at byte {end}"
    if extra < 0 and extra != -FOOTER_BYTES:
        last = max(entries, key=lambda entry: entry.offset_bytes + entry.size_bytes, default=None)
        raise damaged(
            "the file ends before its tensors do" if file.size_bytes < end else "the file ends inside its footer",
            path=file.path,
            place=None if last is None else f"tensor {last.name}",
            expected=f"{end + FOOTER_BYTES} bytes",
            found=f"{file.size_bytes} bytes",
        )
    if extra == -FOOTER_BYTES:
        expected = "4 bytes of CRC32 behind the last tensor"
        return False, [IntegrityProblem(NO_FOOTER, where, expected, "the end of the file")]
    if extra > 0:
        what = "bytes behind the last tensor that no section accounts for"
        return True, [IntegrityProblem(what, where, "only the 4 footer bytes", f"{extra} bytes more")]
    return True, []


def _check_overlaps(file: SourceFile, entries: Sequence[TensorEntry], sections: Sections) -> None:
    header = sections.header
    metadata_end = header.metadata_offset_bytes + header.metadata_size_bytes
    extents = [(entry.offset_bytes, entry.offset_bytes + entry.size_bytes, entry.name) for entry in entries]
    extents.append((header.metadata_offset_bytes, metadata_end, "the metadata"))
    occupied = sorted(extent for extent in extents if extent[1] > extent[0])
    for (_, first_end, first), (second_start, _, second) in itertools.pairwise(occupied):
        if second_start < first_end:
            raise damaged(
                "two parts of the file overlap",
                path=file.path,
                place=f"{first} and {second}",
                offset_bytes=second_start,
                expected=f"{second} from byte {first_end} on",
                found=f"byte {second_start}",
            )


def _problem(entry: TensorEntry, what: str, expected: str, found: str) -> IntegrityProblem:
    where = f"{entry.file.path}: tensor {entry.name} at byte {entry.offset_bytes}"
    return IntegrityProblem(what, where, expected, found)
