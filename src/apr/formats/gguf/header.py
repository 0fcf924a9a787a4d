"""The header of a GGUF file, read within bounds: keys with their places, and the tensors.

Every count, length and offset is held against the file before anything is allocated or walked. The values of arrays
are left where they are; of texts in them only the lengths are read, to find where the array ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from apr.errors import DamagedFileError, shell_word
from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.damage import MAGIC_VALID, damaged
from apr.formats.gguf.cursor import Cursor
from apr.formats.gguf.layout import (
    ALIGNMENT_KEY,
    ALIGNMENT_UNIT,
    DEEPEST_NESTING,
    DEFAULT_ALIGNMENT,
    LONGEST_KEY_BYTES,
    MOST_KEYS,
    MOST_NESTED_ARRAYS,
    MOST_TENSORS,
    PREAMBLE,
    SCALAR_BYTES,
    SCALARS,
    SMALLEST_PAIR_BYTES,
    SMALLEST_TENSOR_INFO_BYTES,
    U32,
    U64,
    VERSIONS,
    ValueType,
)
from apr.formats.gguf.tensors import read_tensors
from apr.formats.gguf.values import Array, shown
from apr.storage.reading import SourceFile


class Pair(NamedTuple):
    """One key with its value as it stands in the file: `size_bytes` from the length of the key to the end of the value.

    value: a Python number, bool or text, or an Array.
    """

    key: str
    type: ValueType
    value: Any
    offset_bytes: int
    size_bytes: int

    @property
    def array(self) -> Array | None:
        return self.value if isinstance(self.value, Array) else None


class Header(NamedTuple):
    """pairs: in file order. alignment: of the tensor data, in bytes. problems: what is odd and stops no reader.

    infos_offset_bytes: end of the pairs, where the list of tensors begins.
    """

    version: int
    pairs: tuple[Pair, ...]
    tensors: dict[str, TensorEntry]
    alignment: int
    infos_offset_bytes: int
    data_offset_bytes: int
    problems: tuple[IntegrityProblem, ...]


def read_header(file: SourceFile) -> Header:
    """The header of `file`; DamagedFileError with the place where it contradicts the format or the file's size."""
    version, tensor_count, key_count = _preamble(file)
    cursor = Cursor(file, PREAMBLE.size)
    _check_count(cursor, key_count, "keys", SMALLEST_PAIR_BYTES, MOST_KEYS)
    _check_count(cursor, tensor_count, "tensors", SMALLEST_TENSOR_INFO_BYTES, MOST_TENSORS)
    pairs = tuple(_pairs(cursor, key_count))
    alignment = _alignment(file, pairs)
    infos_offset_bytes = cursor.position
    found = read_tensors(cursor, tensor_count, alignment)
    return Header(version, pairs, found.tensors, alignment, infos_offset_bytes, found.data_offset_bytes, found.problems)


def _preamble(file: SourceFile) -> tuple[int, int, int]:
    if file.size_bytes < PREAMBLE.size:
        raise damaged(
            "a GGUF file that ends inside its first bytes",
            path=file.path,
            offset_bytes=0,
            expected=f"at least {PREAMBLE.size} bytes",
            found=f"{file.size_bytes} bytes",
        )
    _, version, tensor_count, key_count = PREAMBLE.unpack(file.read_at(0, PREAMBLE.size, "the first bytes"))
    if version not in VERSIONS:
        raise _unread_version(file, version)
    return version, tensor_count, key_count


def _unread_version(file: SourceFile, version: int) -> DamagedFileError:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version & 0xFFFF == 0 and swapped <= 0xFFFF:
        what, found = "a big-endian GGUF file, which is not read", f"version {swapped} in big-endian order"
        remedy = f"convert it first: gguf-convert-endian {shell_word(file.path)} little (package gguf)"
    elif version < VERSIONS[0]:
        what, found = "a GGUF file of the first version, which llama.cpp gave up too", f"version {version}"
        remedy = "make it again from its model, or convert it with a llama.cpp of 2023"
    else:
        what, found = "a GGUF file of a version that is not known", f"version {version}"
        remedy = "look for a newer release of apr; a damaged file shows this too"
    known = " or ".join(map(str, VERSIONS))
    return damaged(
        what,
        path=file.path,
        offset_bytes=4,
        expected=f"version {known}, little-endian",
        found=found,
        invariant=MAGIC_VALID,
        remedy=remedy,
    )


def _check_count(cursor: Cursor, count: int, what: str, least_bytes: int, limit: int) -> None:
    most = min(limit, cursor.left_bytes // least_bytes)
    if count > most:
        raise damaged(
            f"the file counts more {what} than it can hold",
            path=cursor.file.path,
            offset_bytes=8 if what == "tensors" else 16,
            expected=f"at most {most} in {cursor.file.size_bytes} bytes",
            found=f"{count}",
        )


def _pairs(cursor: Cursor, count: int) -> Iterator[Pair]:
    seen: set[str] = set()
    walk = _Walk(cursor)
    for number in range(count):
        start = cursor.position
        key = cursor.text(f"key {number}", LONGEST_KEY_BYTES)
        if not key or key in seen:
            cursor.position = start
            raise cursor.complain(
                "a key stands twice" if key else "a key is empty", "keys that are unique and not empty", repr(key)
            )
        seen.add(key)
        kind = walk.type_of(key)
        value = walk.value(key, kind)
        yield Pair(key, kind, value, start, cursor.position - start)


class _Walk:
    """Walks over values, and counts the arrays in arrays, so that a hostile nest of them ends."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._nested_count = 0

    def type_of(self, key: str) -> ValueType:
        code = self._cursor.u32(f"the type of key {key}")
        if code not in _VALUE_TYPES:
            self._cursor.position -= U32.size
            most = max(ValueType)
            raise self._cursor.complain("unknown type of value", f"a code from 0 to {most}", f"{code}", f"key {key}")
        return _VALUE_TYPES[code]

    def value(self, key: str, kind: ValueType) -> Any:
        cursor = self._cursor
        if kind is ValueType.STRING:
            return cursor.text(f"the value of key {key}")
        if kind is ValueType.ARRAY:
            element_type = self.type_of(key)
            count = cursor.u64(f"the length of key {key}")
            start = cursor.position
            self._skip(key, element_type, count, depth=1)
            return Array(key, element_type, count, cursor.file, start, cursor.position - start)
        raw = cursor.take(SCALAR_BYTES[kind], f"the value of key {key}")
        if kind is ValueType.BOOL:
            self._check_bools(key, raw)
        return shown(struct.unpack("<" + SCALARS[kind], raw)[0], kind)

    def _skip(self, key: str, kind: ValueType, count: int, depth: int) -> None:
        cursor, what = self._cursor, f"the array of key {key}"
        least_bytes = SCALAR_BYTES.get(kind, U64.size if kind is ValueType.STRING else U32.size + U64.size)
        if count * least_bytes > cursor.left_bytes:
            cursor.position -= U64.size
            most = (cursor.left_bytes - U64.size) // least_bytes
            raise cursor.complain(f"{what} is longer than the file", f"at most {most} elements", f"{count}")
        if kind is ValueType.STRING:
            cursor.skip_texts(count, what)
        elif kind is ValueType.ARRAY:
            self._skip_arrays(key, count, depth)
        elif kind is ValueType.BOOL:
            for start in range(0, count, _BOOLS_AT_ONCE):
                self._check_bools(key, cursor.take(min(_BOOLS_AT_ONCE, count - start), what))
        else:
            cursor.skip(count * SCALAR_BYTES[kind], what)

    def _skip_arrays(self, key: str, count: int, depth: int) -> None:
        self._nested_count += count
        if depth >= DEEPEST_NESTING or self._nested_count > MOST_NESTED_ARRAYS:
            expected = f"arrays at most {DEEPEST_NESTING} deep, and {MOST_NESTED_ARRAYS} of them"
            found = f"depth {depth + 1}, {self._nested_count} arrays"
            raise self._cursor.complain("arrays in arrays are nested too far", expected, found, f"key {key}")
        for _ in range(count):
            kind = self.type_of(key)
            self._skip(key, kind, self._cursor.u64(f"the length of an array in key {key}"), depth + 1)

    def _check_bools(self, key: str, raw: bytes) -> None:
        wrong = raw.translate(None, b"\0\1")
        if wrong:
            cursor = self._cursor
            cursor.position += raw.index(wrong[:1]) - len(raw)
            raise cursor.complain("a bool is neither 0 nor 1", "0 or 1", f"{wrong[0]}", f"key {key}")


_VALUE_TYPES = {int(kind): kind for kind in ValueType}
_BOOLS_AT_ONCE = 64 << 10


def _alignment(file: SourceFile, pairs: tuple[Pair, ...]) -> int:
    pair = next((pair for pair in pairs if pair.key == ALIGNMENT_KEY), None)
    if pair is None:
        return DEFAULT_ALIGNMENT
    value = pair.value
    if pair.type is ValueType.U32 and value >= ALIGNMENT_UNIT and value & (value - 1) == 0:
        return int(value)
    raise damaged(
        "the alignment of the tensor data is not one",
        path=file.path,
        place=ALIGNMENT_KEY,
        offset_bytes=pair.offset_bytes,
        expected=f"a power of two that is a multiple of {ALIGNMENT_UNIT}, of type u32",
        found=f"{value!r:.80} of type {pair.type.name.lower()}",
    )
