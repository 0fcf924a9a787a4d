"""Other keys and values for a GGUF file, where it stands: the front of its header changes, no tensor is read.

Layout: small pairs stand in front, and among them one text of spaces that takes up what they leave (`apr.padding`,
GGUF has no padding of its own). Behind them stand large pairs, such as the vocabulary, which stay where they are; one
of these that changes its size moves to the front, and a text of spaces takes its place. The front grows by whole blocks
of the file system that are a multiple of the alignment too, so that everything behind it moves by that much and the
offsets of tensors, which count from the start of their data, stay true.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from apr.errors import UsageError
from apr.formats.gguf.header import Header, Pair
from apr.formats.gguf.layout import (
    ARCHITECTURE_KEY,
    LONGEST_HEADER_BYTES,
    MOST_KEYS,
    OWN_PREFIX,
    PADDING_KEY,
    PREAMBLE,
    U32,
    U64,
    ValueType,
    is_padding,
)
from apr.formats.gguf.read import Metadata
from apr.formats.gguf.values import Typed, as_read, encode, encode_text, inferred
from apr.formats.json_text import is_same
from apr.storage.patches import FilePatch, Splice
from apr.storage.reading import SourceFile

SPARE_BYTES = 4096
"""Room kept in front when it had to grow, so that the next stamps fit."""

LARGE_PAIR_BYTES = 16 << 10
"""A pair above this size is rather left where it stands than written anew."""

LEAST_FILLED_BYTES = 40
"""A place from this size on takes a padding of its own when its value moves away."""

_EMPTY_TEXT_BYTES = U32.size + U64.size


class _Piece(NamedTuple):
    """A pair as it will stand. pair: as it stands now, None for a new one. body: type and value, None as they are."""

    key: str
    pair: Pair | None
    body: bytes | None

    @property
    def is_untouched(self) -> bool:
        return self.pair is not None and self.body is None and self.pair.key == self.key

    @property
    def size_bytes(self) -> int:
        return _key_bytes(self.key) + (self._old_body_bytes if self.body is None else len(self.body))

    @property
    def is_large(self) -> bool:
        return self.size_bytes > LARGE_PAIR_BYTES and not self.key.startswith(OWN_PREFIX)

    @property
    def _old_body_bytes(self) -> int:
        assert self.pair is not None
        return self.pair.size_bytes - _key_bytes(self.pair.key)

    def written(self, file: SourceFile) -> bytes:
        body = self.body
        if body is None:
            assert self.pair is not None
            offset_bytes = self.pair.offset_bytes + _key_bytes(self.pair.key)
            body = file.read_at(offset_bytes, self._old_body_bytes, f"the value of key {self.pair.key}")
        return encode_text(self.key, self.key) + body


def plan_metadata_patch(file: SourceFile, before: Metadata, after: Mapping[str, Any]) -> FilePatch:
    """The patch that gives `file`, whose keys are `before`, the keys and values `after`.

    A key keeps its type; a new one gets the type that suits its value. Where `general.architecture` changes and no key
    is left below the old name, the keys below the new name are those. Raises UsageError for values that do not fit
    their type, and for a header that would be longer than is read.
    """
    header = before.header
    pieces = _pieces(before, after)
    front_count = _front_count(header.pairs, pieces)
    front = [piece for piece in pieces[:front_count] if piece is not None and not is_padding(piece.key)]
    behind = list(zip(header.pairs[front_count:], pieces[front_count:], strict=True))
    padding_keys = _free_padding_keys({pair.key for pair, _ in behind})
    padding_key = next(padding_keys)
    changed: list[tuple[int, bytes]] = []
    for pair, piece in behind:
        if _fits(pair, piece):
            if piece is not None and not piece.is_untouched:
                changed.append((pair.offset_bytes, piece.written(file)))
            continue
        changed.append((pair.offset_bytes, _padding(next(padding_keys), pair.size_bytes)))
        if piece is not None:
            front.append(piece)
    front += _new_pieces(before, after)
    small = b"".join(piece.written(file) for piece in front if not piece.is_large)
    large = b"".join(piece.written(file) for piece in front if piece.is_large)
    front_end = behind[0][0].offset_bytes if behind else header.infos_offset_bytes
    gap_bytes = front_end - PREAMBLE.size - len(small) - len(large)
    room_bytes = _room_bytes(file, header, gap_bytes, padding_key)
    padding = _padding(padding_key, gap_bytes + room_bytes) if gap_bytes + room_bytes else b""
    count = len(front) + bool(padding) + len(behind)
    _check_limits(file, header, room_bytes, count)
    old_head = file.read_at(0, front_end, "the front of the header")
    magic, version, tensor_count, _ = PREAMBLE.unpack_from(old_head)
    splices = [
        Splice(0, old_head, 0, PREAMBLE.pack(magic, version, tensor_count, count) + small + padding + large),
        *(Splice(at, file.read_at(at, len(new)), at + room_bytes, new) for at, new in changed),
    ]
    return FilePatch(file.path.name, file.size_bytes, 0, room_bytes, tuple(splices))


class Rename(NamedTuple):
    """Keys below `old` are below `new`, as `llama.block_count` becomes `qwen2.block_count`."""

    old: str
    new: str

    def __call__(self, key: str) -> str:
        return f"{self.new}.{key[len(self.old) + 1 :]}" if key.startswith(f"{self.old}.") else key


def keys_below(metadata: Iterable[str], architecture: str) -> list[str]:
    """The keys of `metadata` that stand below the name of `architecture`."""
    return [key for key in metadata if key.startswith(f"{architecture}.")]


def _rename_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Rename:
    """The rename that came with the architecture, if keys below its old name are gone from `after`."""
    old, new = before.get(ARCHITECTURE_KEY), after.get(ARCHITECTURE_KEY)
    if not isinstance(old, str) or not isinstance(new, str) or keys_below(after, old):
        return _NO_RENAME
    return Rename(old, new)


_NO_RENAME = Rename("", "")


def value_as_read(before: Metadata, key: str, value: Any) -> Any:
    """`value` as it reads once it was written to `key`, in the type that the key has or that a new one gets.

    Raises UsageError where it does not fit the type.
    """
    pair = next((pair for pair in before.header.pairs if pair.key == key), None)
    typed = inferred(value, key) if pair is None else Typed(pair.type, _element_type(pair), value)
    encode(typed, key)
    if typed.element_type is not None:
        return [as_read(each, typed.element_type) for each in typed.value]
    return as_read(typed.value, typed.type)


def _pieces(before: Metadata, after: Mapping[str, Any]) -> list[_Piece | None]:
    """What becomes of each pair of the file; None where it goes. Padding stays for the caller to see to."""
    rename = _rename_between(before, after)
    pieces: list[_Piece | None] = []
    for pair in before.header.pairs:
        key = rename(pair.key)
        if is_padding(pair.key):
            pieces.append(_Piece(pair.key, pair, None))
        elif key not in after:
            pieces.append(None)
        else:
            value = after[key]
            is_kept = value is before[pair.key] or is_same(value, before[pair.key])
            body = None if is_kept else encode(Typed(pair.type, _element_type(pair), value), key)
            pieces.append(_Piece(key, pair, body))
    return pieces


def _new_pieces(before: Metadata, after: Mapping[str, Any]) -> list[_Piece]:
    rename = _rename_between(before, after)
    known = {rename(key) for key in before}
    return [_Piece(key, None, encode(inferred(after[key], key), key)) for key in after if key not in known]


def _element_type(pair: Pair) -> ValueType | None:
    return pair.array.element_type if pair.array is not None else None


def _fits(pair: Pair, piece: _Piece | None) -> bool:
    return piece is not None and piece.size_bytes == pair.size_bytes


def _front_count(pairs: Sequence[Pair], pieces: Sequence[_Piece | None]) -> int:
    """How many pairs are written anew: those before the first large one, and what has to be or comes for free."""
    count = next((at for at, pair in enumerate(pairs) if _Piece(pair.key, pair, None).is_large), len(pairs))
    for at in range(count, len(pairs)):
        if not _fits(pairs[at], pieces[at]) and pairs[at].size_bytes < LEAST_FILLED_BYTES:
            count = at + 1
    while count < len(pairs) and (is_padding(pairs[count].key) or not _fits(pairs[count], pieces[count])):
        count += 1
    return count


def _free_padding_keys(used: set[str]) -> Iterator[str]:
    keys = chain((PADDING_KEY,), (f"{PADDING_KEY}.{number}" for number in range(1, MOST_KEYS)))
    return (key for key in keys if key not in used)


def _padding(key: str, size_bytes: int) -> bytes:
    """A pair of exactly `size_bytes` that says nothing."""
    spaces = " " * (size_bytes - _key_bytes(key) - _EMPTY_TEXT_BYTES)
    return encode_text(key, key) + encode(Typed(ValueType.STRING, None, spaces), key)


def _key_bytes(key: str) -> int:
    return U64.size + len(key.encode())


def _room_bytes(file: SourceFile, header: Header, gap_bytes: int, padding_key: str) -> int:
    """Bytes to insert so that a gap of `gap_bytes` can be padded; whole blocks, and a multiple of the alignment."""
    least_bytes = _key_bytes(padding_key) + _EMPTY_TEXT_BYTES
    if gap_bytes == 0 or gap_bytes >= least_bytes:
        return 0
    unit_bytes = math.lcm(max(os.fstatvfs(file.fileno()).f_bsize, SPARE_BYTES), header.alignment)
    return -(-(least_bytes - gap_bytes + SPARE_BYTES) // unit_bytes) * unit_bytes


def _check_limits(file: SourceFile, header: Header, room_bytes: int, count: int) -> None:
    size_bytes = header.infos_offset_bytes + room_bytes
    if size_bytes > LONGEST_HEADER_BYTES or count > MOST_KEYS:
        raise UsageError(
            "the header would be longer than is read",
            where=str(file.path),
            expected=f"at most {LONGEST_HEADER_BYTES} bytes and {MOST_KEYS} keys",
            found=f"{size_bytes} bytes and {count} keys",
        )
