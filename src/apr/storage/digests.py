"""Checksums of many extents of one file at once: streamed, constant memory, spread over the cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from apr.storage.checksums import Blake3, crc32, crc32_combine
from apr.storage.reading import SourceFile

# Large enough that Python's share vanishes, small enough to stay in a core's cache between the two sums.
_CHUNK_BYTES = 1 << 20

_MOST_THREADS = 8


class StoredSums(NamedTuple):
    """Sums over the stored bytes of one tensor that somebody has read already."""

    crc32: int
    blake3_hex: str


NOTHING_READ: Mapping[str, StoredSums] = MappingProxyType({})


class Extent(NamedTuple):
    """A part of a file whose sums are wanted; `known` when they need not be read again."""

    offset_bytes: int
    size_bytes: int
    wants_blake3: bool = False
    known: StoredSums | None = None


class ExtentSums(NamedTuple):
    """crc32 of the extent; blake3_hex where it was asked for."""

    extent: Extent
    crc32: int
    blake3_hex: str | None


def sum_extents(file: SourceFile, extents: Sequence[Extent]) -> list[ExtentSums]:
    """The sums of each extent, in the given order. Reads and sums run outside Python's global lock."""
    from concurrent.futures import ThreadPoolExecutor

    if not extents:
        return []
    thread_count = min(_MOST_THREADS, usable_cores(), len(extents))
    with ThreadPoolExecutor(thread_count) as pool:
        return list(pool.map(lambda extent: _sum(file, extent), extents))


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crc32_of(sums: Sequence[ExtentSums]) -> int:
    """CRC32 of the extents put together in order."""
    total = 0
    for each in sums:
        total = crc32_combine(total, each.crc32, each.extent.size_bytes)
    return total


def _sum(file: SourceFile, extent: Extent) -> ExtentSums:
    if extent.known is not None:
        return ExtentSums(extent, *extent.known)
    checksum, hasher = 0, Blake3() if extent.wants_blake3 else None
    for view in file.stream(extent.offset_bytes, extent.size_bytes, _CHUNK_BYTES):
        checksum = crc32(view, checksum)
        if hasher is not None:
            hasher.update(view)
    return ExtentSums(extent, checksum, None if hasher is None else hasher.hexdigest())
