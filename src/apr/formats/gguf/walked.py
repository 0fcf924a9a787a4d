"""How long arrays of texts are, for those walked once in this process and found again byte for byte.

Stepping over the 150,000 tokens of a vocabulary costs more than all else a header does, and a stamp reads each header
twice, a fleet of fine-tunes one vocabulary many times. What is kept is found by content, so it can never be stale.
"""

from __future__ import annotations

from typing import NamedTuple

from apr.storage.reading import SourceFile

FEWEST_TEXTS, MOST_BYTES = 10_000, 64 << 20
"""Smaller arrays are walked faster than they are hashed; larger ones no tokenizer has."""

MOST_KEPT = 256
HEAD_BYTES, PIECE_BYTES = 512, 256 << 10


class _Span(NamedTuple):
    size_bytes: int
    digest: bytes


_spans: dict[tuple[int, bytes], _Span] = {}
"""By the number of texts and the first bytes."""


def known_size(file: SourceFile, position: int, count: int, end: int) -> int | None:
    """Bytes that the `count` texts at `position` take, if the very same were walked before; None if not.

    end: where the header must be over at the latest.
    """
    key = _key(file, position, count, end)
    span = None if key is None else _spans.get(key)
    if span is None or span.size_bytes > end - position:
        return None
    return span.size_bytes if _digest(file, position, span.size_bytes) == span.digest else None


def remember(file: SourceFile, position: int, count: int, size_bytes: int) -> None:
    """Keep that the `count` texts at `position` take `size_bytes`."""
    key = _key(file, position, count, position + size_bytes)
    if key is not None and size_bytes <= MOST_BYTES and len(_spans) < MOST_KEPT:
        _spans[key] = _Span(size_bytes, _digest(file, position, size_bytes))


def _key(file: SourceFile, position: int, count: int, end: int) -> tuple[int, bytes] | None:
    if count < FEWEST_TEXTS or file.is_remote or end - position < HEAD_BYTES:
        return None
    return count, file.read_at(position, HEAD_BYTES, "the header")


def _digest(file: SourceFile, position: int, size_bytes: int) -> bytes:
    from blake3 import blake3

    hasher = blake3()
    for start in range(0, size_bytes, PIECE_BYTES):
        hasher.update(file.read_at(position + start, min(PIECE_BYTES, size_bytes - start), "the header"))
    return hasher.digest()
