"""Values of GGUF keys: what they are in Python, and the bytes they are in a file.

Arrays stay in the file until they are asked for, as a vocabulary holds hundreds of thousands of texts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

from apr.errors import UsageError
from apr.formats.damage import damaged
from apr.formats.gguf.layout import SCALAR_BYTES, SCALARS, U32, U64, ValueType
from apr.storage.reading import SourceFile

LARGEST_F32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
_FLOATS = frozenset({ValueType.F32, ValueType.F64})
_INTEGERS = frozenset({ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64})


class Array(Sequence[Any]):
    """An array in an open file: how many of what, decoded when an element is asked for.

    offset_bytes, size_bytes: of the elements alone. element_type ARRAY: elements are arrays themselves.
    Equal to another array in a file whose elements are the same bytes, and to a list of the same values.
    """

    __slots__ = ("_values", "element_count", "element_type", "file", "key", "offset_bytes", "size_bytes")

    def __init__(
        self,
        key: str,
        element_type: ValueType,
        element_count: int,
        file: SourceFile,
        offset_bytes: int,
        size_bytes: int,
    ) -> None:
        self.key = key
        self.element_type = element_type
        self.element_count = element_count
        self.file = file
        self.offset_bytes = offset_bytes
        self.size_bytes = size_bytes
        self._values: list[Any] | None = None

    def read_bytes(self) -> bytes:
        """The elements as they stand in the file."""
        return self.file.read_at(self.offset_bytes, self.size_bytes, f"the array {self.key}")

    def values(self) -> list[Any]:
        """All elements; DamagedFileError for a text that is not UTF-8."""
        if self._values is None:
            self._values, _ = self._elements(self.read_bytes(), 0, self.element_type, self.element_count)
        return self._values

    def _elements(self, data: bytes, position: int, kind: ValueType, count: int) -> tuple[list[Any], int]:
        """`count` elements of `kind` from `position` of `data` on, and where they end; bounds were checked."""
        if kind in SCALARS:
            numbers = struct.unpack_from(f"<{count}{SCALARS[kind]}", data, position)
            return [shown(each, kind) for each in numbers], position + count * SCALAR_BYTES[kind]
        found: list[Any] = []
        for _ in range(count):
            if kind is ValueType.STRING:
                (length,) = U64.unpack_from(data, position)
                position += U64.size
                found.append(self._text(data[position : position + length], position))
                position += length
            else:
                inner = ValueType(U32.unpack_from(data, position)[0])
                (length,) = U64.unpack_from(data, position + U32.size)
                values, position = self._elements(data, position + U32.size + U64.size, inner, length)
                found.append(values)
        return found, position

    def _text(self, raw: bytes, position: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise damaged(
                "a text in an array is not UTF-8",
                path=self.file.path,
                place=f"key {self.key}",
                offset_bytes=self.offset_bytes + position,
                expected="UTF-8",
                found=f"{raw[:40]!r}",
            ) from error

    def __len__(self) -> int:
        return self.element_count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.values()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Array):
            mine = (self.element_type, self.element_count, self.size_bytes)
            theirs = (other.element_type, other.element_count, other.size_bytes)
            return mine == theirs and (self is other or self.read_bytes() == other.read_bytes())
        return isinstance(other, list) and len(other) == self.element_count and self.values() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"an array of {self.element_count:,} {self.element_type.name}"


class Typed(NamedTuple):
    """A value with the type it has, or is to have, in a file. element_type: of an array, None otherwise."""

    type: ValueType
    element_type: ValueType | None
    value: Any


def shown(value: Any, kind: ValueType) -> Any:
    """The Python value of a number as it was unpacked: a bool, or for 32 bits the shortest decimal that means it.

    Without that an epsilon written as 1e-6 would read as 9.999999974752427e-07, and differ from every config.
    """
    if kind is ValueType.BOOL:
        return bool(value)
    if kind is not ValueType.F32 or value != value or abs(value) > LARGEST_F32:
        return value
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if abs(short) <= LARGEST_F32 and struct.unpack("<f", struct.pack("<f", short))[0] == value:
            return short
    return float(f"{value:.9g}")


def as_read(value: Any, kind: ValueType) -> Any:
    """`value`, which fits `kind`, as it reads once it was written."""
    if kind is ValueType.F32:
        return shown(struct.unpack("<f", struct.pack("<f", value))[0], kind)
    return float(value) if kind is ValueType.F64 else value


def encode(typed: Typed, key: str) -> bytes:
    """Type and value as they stand behind a key; UsageError where the value does not fit the type."""
    if typed.type is not ValueType.ARRAY:
        return U32.pack(typed.type) + _encoded(typed.value, typed.type, key)
    assert typed.element_type is not None
    if not isinstance(typed.value, (list, tuple)):
        raise _unfit(key, f"a list of {typed.element_type.name}", typed.value)
    head = U32.pack(typed.type) + U32.pack(typed.element_type) + U64.pack(len(typed.value))
    return head + b"".join(_encoded(each, typed.element_type, key) for each in typed.value)


def encode_text(text: str, key: str) -> bytes:
    """`text` as a GGUF string; UsageError where it has no UTF-8 form."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("a text holds half of a surrogate pair, which has no UTF-8 form", where=key) from error
    return U64.pack(len(raw)) + raw


def inferred(value: Any, key: str) -> Typed:
    """The type a new key gets from its JSON value, as the writers of llama.cpp choose it: u32 and f32 where they fit.

    Raises UsageError for what GGUF has no form for: null, objects, empty or mixed lists.
    """
    if isinstance(value, (list, tuple)):
        kinds = {_scalar_type(each, key) for each in value}
        if len(kinds) > 1 and kinds <= _FLOATS:
            kinds = {ValueType.F64}
        elif len(kinds) > 1 and kinds <= _INTEGERS:
            kinds = {ValueType.I64}
        if len(kinds) != 1:
            raise _unfit(key, "a list of values of one type, not empty", value)
        return Typed(ValueType.ARRAY, kinds.pop(), list(value))
    return Typed(_scalar_type(value, key), None, value)


def _scalar_type(value: Any, key: str) -> ValueType:
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, int):
        ranges = (ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64)
        fitting = next((kind for kind in ranges if _is_within(value, kind)), None)
        if fitting is None:
            raise _unfit(key, "a number of at most 64 bits", value)
        return fitting
    if isinstance(value, float):
        is_short = not math.isfinite(value) or (abs(value) <= LARGEST_F32 and as_read(value, ValueType.F32) == value)
        return ValueType.F32 if is_short else ValueType.F64
    if isinstance(value, str):
        return ValueType.STRING
    raise _unfit(key, "a text, number, bool, or list of these", value)


def _is_within(value: int, kind: ValueType) -> bool:
    bits = 8 * SCALAR_BYTES[kind]
    low, high = (-(1 << bits - 1), 1 << bits - 1) if kind.name.startswith("I") else (0, 1 << bits)
    return low <= value < high


def _encoded(value: Any, kind: ValueType, key: str) -> bytes:
    if kind is ValueType.STRING:
        if not isinstance(value, str):
            raise _unfit(key, "a text", value)
        return encode_text(value, key)
    if kind is ValueType.BOOL:
        fits = isinstance(value, bool)
    elif kind in _FLOATS:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = fits and not (kind is ValueType.F32 and LARGEST_F32 < abs(value) < float("inf"))
    elif kind in SCALARS:
        fits = isinstance(value, int) and not isinstance(value, bool) and _is_within(value, kind)
    else:
        raise _unfit(key, "a list that is not nested", value)
    if not fits:
        raise _unfit(key, f"a value of the type that stands there, {kind.name.lower()}", value)
    return struct.pack("<" + SCALARS[kind], value)


def _unfit(key: str, expected: str, value: Any) -> UsageError:
    return UsageError(
        "the value does not fit the key",
        where=f"GGUF key {key}",
        expected=expected,
        found=f"{value!r:.80}",
        remedy="give a value of that type (JSON: 1 is a whole number, 1.0 is not, a text stands in double quotes)",
    )
