"""The tensor index of APR v2: entries back to back, sorted by name in byte order, offsets relative to the data."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from apr.errors import DamagedFileError
from apr.formats.apr2.layout import DTYPE_CODES, DTYPE_OF_CODE, MOST_DIMENSIONS
from apr.formats.dtypes import DType

_NAME_LENGTH = struct.Struct("<H")
_EXTENT = struct.Struct("<QQ")
_DIMENSIONS = tuple(struct.Struct(f"<{count}Q") for count in range(MOST_DIMENSIONS + 1))

# name length, dtype, ndim, offset, size.
SMALLEST_ENTRY_BYTES = 2 + 1 + 1 + 16

# Larger products cannot be addressed by any reader, and upstream computes them in 64 bits.
_MOST_ELEMENTS = (1 << 63) - 1

Complain = Callable[[str, int, str, str], DamagedFileError]


class IndexEntry(NamedTuple):
    """One index entry: `offset_bytes` is relative to the header's data offset, `size_bytes` without padding."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


def pack_index(entries: Sequence[IndexEntry]) -> bytes:
    """The index bytes without padding, in the given order."""
    parts = []
    for entry in entries:
        name = entry.name.encode()
        parts += [
            _NAME_LENGTH.pack(len(name)),
            name,
            bytes((DTYPE_CODES[entry.dtype], len(entry.shape))),
            _DIMENSIONS[len(entry.shape)].pack(*entry.shape),
            _EXTENT.pack(entry.offset_bytes, entry.size_bytes),
        ]
    return b"".join(parts)


def unpack_index(index: bytes, count: int, complain: Complain) -> tuple[list[IndexEntry], int]:
    """`count` entries from the start of `index`, and how many bytes they took.

    Raises what `complain(what, offset in the index, expected, found)` makes for an entry that runs over the end, a
    name that is empty, not UTF-8, repeated or out of order, an unknown dtype code, or a shape no reader can address.
    """
    entries: list[IndexEntry] = []
    previous = b""
    position = 0
    for number in range(count):
        start = position
        name, position = _take_name(index, start, number, complain)
        if not name:
            raise complain(
                "an index entry has an empty name", start, f"{count} entries with a name", f"{number} of them"
            )
        if number and name <= previous:
            what = "two tensors have the same name" if name == previous else "tensor names are not in order"
            raise complain(what, start, f"a name after {previous!r} in byte order", repr(name))
        previous = name
        dtype, shape, position = _take_form(index, position, name, complain)
        if position + _EXTENT.size > len(index):
            raise complain("the tensor index ends inside an entry", start, f"{number + 1} whole entries", repr(name))
        offset_bytes, size_bytes = _EXTENT.unpack_from(index, position)
        position += _EXTENT.size
        entries.append(IndexEntry(_decoded(name, start, complain), dtype, shape, offset_bytes, size_bytes))
    return entries, position


def _take_name(index: bytes, start: int, number: int, complain: Complain) -> tuple[bytes, int]:
    left = len(index) - start
    if left < SMALLEST_ENTRY_BYTES:
        raise complain(
            "the tensor index ends before its last entry",
            start,
            f"entry {number + 1} of at least {SMALLEST_ENTRY_BYTES} bytes",
            f"{left} bytes left",
        )
    (length,) = _NAME_LENGTH.unpack_from(index, start)
    if left < SMALLEST_ENTRY_BYTES + length:
        raise complain(
            "a tensor name runs over the end of the index",
            start,
            f"at most {left - SMALLEST_ENTRY_BYTES} bytes",
            f"{length} bytes",
        )
    end = start + _NAME_LENGTH.size + length
    return index[start + _NAME_LENGTH.size : end], end


def _take_form(index: bytes, position: int, name: bytes, complain: Complain) -> tuple[DType, tuple[int, ...], int]:
    code, dimension_count = index[position], index[position + 1]
    dtype = DTYPE_OF_CODE.get(code)
    if dtype is None:
        raise complain(f"unknown dtype of tensor {name!r}", position, f"a code of {sorted(DTYPE_OF_CODE)}", str(code))
    if dimension_count > MOST_DIMENSIONS:
        raise complain(
            f"too many dimensions of tensor {name!r}", position + 1, f"at most {MOST_DIMENSIONS}", str(dimension_count)
        )
    layout = _DIMENSIONS[dimension_count]
    position += 2
    if position + layout.size > len(index):
        raise complain(
            f"the shape of tensor {name!r} runs over the end of the index",
            position,
            f"{dimension_count} dimensions",
            f"{len(index) - position} bytes left",
        )
    shape = layout.unpack_from(index, position)
    product = 1
    for length in shape:
        product *= max(length, 1)
    if product > _MOST_ELEMENTS:
        raise complain(f"the shape of tensor {name!r} overflows", position, "fewer than 2^63 elements", str(shape))
    return dtype, shape, position + layout.size


def _decoded(name: bytes, offset_bytes: int, complain: Complain) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise complain("a tensor name is not UTF-8", offset_bytes, "UTF-8 text", repr(name)) from error
