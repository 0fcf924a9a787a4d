"""The list of tensors in a GGUF header.

Dimensions stand there fastest first (`ne` of ggml); shapes here are row-major, as everywhere in `apr`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.damage import damaged
from apr.formats.dtypes import ENCODINGS, DType, stored_size_bytes
from apr.formats.gguf.cursor import Cursor
from apr.formats.gguf.layout import (
    DTYPE_OF_CODE,
    LONGEST_KEY_BYTES,
    MOST_DIMENSIONS,
    U32,
    U64,
    aligned,
)
from apr.storage.reading import SourceFile

_MOST_ELEMENTS = (1 << 63) - 1


class TensorInfo(NamedTuple):
    """One entry of the list. offset_bytes: from the start of the tensor data. place_bytes: of the entry in the file."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset_bytes: int
    place_bytes: int


class Tensors(NamedTuple):
    """tensors: by name, in the order of the list."""

    tensors: dict[str, TensorEntry]
    data_offset_bytes: int
    problems: tuple[IntegrityProblem, ...]


def read_tensors(cursor: Cursor, count: int, alignment: int) -> Tensors:
    """The `count` tensors whose list begins at the cursor; DamagedFileError where it contradicts itself or the file."""
    infos: dict[str, TensorInfo] = {}
    for number in range(count):
        info = _info(cursor, number, alignment)
        if info.name in infos:
            cursor.position = info.place_bytes
            raise cursor.complain("a tensor stands twice in the list", "tensor names that are unique", info.name)
        infos[info.name] = info
    file, data_offset_bytes = cursor.file, aligned(cursor.position, alignment)
    tensors = {
        info.name: TensorEntry(
            info.name,
            info.dtype,
            info.shape,
            file,
            data_offset_bytes + info.offset_bytes,
            stored_size_bytes(info.dtype, math.prod(info.shape)),
        )
        for info in infos.values()
    }
    _check_extents(file, tensors.values())
    return Tensors(tensors, data_offset_bytes, _problems(file, list(tensors.values()), data_offset_bytes, alignment))


@lru_cache
def _form(rank: int) -> struct.Struct:
    """Dimensions, type and offset of a tensor, as they stand one after the other."""
    return struct.Struct(f"<{rank}QIQ")


def _info(cursor: Cursor, number: int, alignment: int) -> TensorInfo:
    start = cursor.position
    name = cursor.text(f"the name of tensor {number}", LONGEST_KEY_BYTES)
    place = f"tensor {name}"
    if not name:
        raise cursor.complain("a tensor has no name", "a name", "an empty text", f"tensor {number}")
    rank = cursor.u32(f"the number of dimensions of {place}")
    if rank > MOST_DIMENSIONS:
        cursor.position -= U32.size
        raise cursor.complain("too many dimensions", f"at most {MOST_DIMENSIONS}", f"{rank}", place)
    form = _form(rank)
    *lengths, code, offset_bytes = form.unpack(cursor.take(form.size, f"the dimensions, type and offset of {place}"))
    shape = tuple(lengths[::-1])
    if math.prod([max(length, 1) for length in shape]) > _MOST_ELEMENTS:
        cursor.position -= U32.size + U64.size
        expected = "sizes with a product below 2^63"
        raise cursor.complain("the shape is absurd", expected, f"{list(shape)}", place)
    dtype = DTYPE_OF_CODE.get(code)
    if dtype is None:
        cursor.position -= U32.size + U64.size
        expected = f"one of the codes {', '.join(map(str, DTYPE_OF_CODE))}"
        raise cursor.complain("unknown type of tensor", expected, f"{code}", place)
    row, block = (shape[-1] if shape else 1), ENCODINGS[dtype].block_elements
    if row % block:
        expected = f"rows of a multiple of {block} elements for {dtype}"
        raise cursor.complain("the rows of a tensor do not fill its blocks", expected, f"{list(shape)}", place)
    if offset_bytes % alignment:
        cursor.position -= U64.size
        expected = f"an offset that is a multiple of {alignment}"
        raise cursor.complain("the data of a tensor is not aligned", expected, f"{offset_bytes}", place)
    return TensorInfo(name, dtype, shape, offset_bytes, start)


def _check_extents(file: SourceFile, tensors: Iterable[TensorEntry]) -> None:
    position = 0
    before = None
    for entry in sorted(tensors, key=lambda entry: (entry.offset_bytes, entry.size_bytes)):
        end = entry.offset_bytes + entry.size_bytes
        if end > file.size_bytes:
            raise damaged(
                "the file ends before its tensors do",
                path=file.path,
                place=f"tensor {entry.name}",
                offset_bytes=entry.offset_bytes,
                expected=f"a file of at least {end} bytes",
                found=f"{file.size_bytes} bytes",
            )
        if entry.size_bytes and entry.offset_bytes < position:
            raise damaged(
                "tensors overlap",
                path=file.path,
                place=f"tensor {entry.name}",
                offset_bytes=entry.offset_bytes,
                expected=f"byte {position} or later, where {before} ends",
                found=f"byte {entry.offset_bytes}",
            )
        if entry.size_bytes:
            position, before = end, f"tensor {entry.name}"


def _problems(
    file: SourceFile, tensors: list[TensorEntry], data_offset_bytes: int, alignment: int
) -> tuple[IntegrityProblem, ...]:
    """What llama.cpp would refuse and every byte of which can be read all the same."""
    problems = []
    position = data_offset_bytes
    for entry in tensors:
        if entry.offset_bytes != position:
            problems.append(
                IntegrityProblem(
                    "the tensors do not stand one behind the other in the order of their list, as llama.cpp wants them",
                    f"{file.path}: tensor {entry.name}",
                    f"its data at byte {position}",
                    f"byte {entry.offset_bytes}",
                    is_harmless=True,
                )
            )
            break
        position = aligned(entry.offset_bytes + entry.size_bytes, alignment)
    end = max((entry.offset_bytes + entry.size_bytes for entry in tensors), default=data_offset_bytes)
    padded_end = aligned(end, alignment)
    if tensors and file.size_bytes not in (end, padded_end):
        is_cut = file.size_bytes < padded_end
        problems.append(
            IntegrityProblem(
                f"the zeros behind the last tensor are {'cut off' if is_cut else 'not the end of the file'}",
                str(file.path),
                f"{padded_end} bytes",
                f"{file.size_bytes} bytes",
                is_harmless=True,
            )
        )
    return tuple(problems)
