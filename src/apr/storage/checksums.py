"""Checksums of stored bytes: CRC32 (the IEEE one of `zlib.crc32`, as APR v2 uses it) and BLAKE3 tensor digests."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Reflected IEEE polynomial, as in zlib's crc32.c.
_POLYNOMIAL = 0xEDB88320

# Headers alone do not repay the 2 ms that importing zlib-ng takes; plain zlib sums this many bytes in 0.1 ms.
_FAST_FROM_BYTES = 1 << 16

# Below this many bytes starting threads costs more than it saves (blake3's own documentation names 128 KiB).
_PARALLEL_FROM_BYTES = 1 << 20


def _multiply_modulo_polynomial(first: int, second: int) -> int:
    """Product of two reflected polynomials over GF(2), reduced by the CRC polynomial."""
    product, bit = 0, 1 << 31
    while bit:
        if first & bit:
            product ^= second
        second = (second >> 1) ^ _POLYNOMIAL if second & 1 else second >> 1
        bit >>= 1
    return product


def combine_without_library(first: int, second: int, second_length_bytes: int) -> int:
    """`crc32_combine` in plain Python: `first` times x to the power of 8·length, plus `second`.

    Square-and-multiply over the bits of the length, so it costs microseconds for any length.
    """
    power, square = 1 << 31, 1 << 23  # x^0 and x^8 in reflected form
    remaining = second_length_bytes
    while remaining:
        if remaining & 1:
            power = _multiply_modulo_polynomial(square, power)
        square = _multiply_modulo_polynomial(square, square)
        remaining >>= 1
    return _multiply_modulo_polynomial(power, first) ^ second


class _Library(NamedTuple):
    crc32: Callable[[Any, int], int]
    combine: Callable[[int, int, int], int]


@lru_cache(maxsize=1)
def _fast() -> _Library:
    """zlib-ng, or where there is no wheel for the platform the same numbers, about four times slower."""
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return _Library(zlib.crc32, combine_without_library)
    return _Library(zlib_ng.crc32, zlib_ng.crc32_combine)


def crc32(data: Buffer, start: int = 0) -> int:
    """CRC32 of `data`, going on from `start`, the CRC32 of the bytes before it."""
    if memoryview(data).nbytes < _FAST_FROM_BYTES:
        return zlib.crc32(data, start)
    return _fast().crc32(data, start)


def crc32_combine(first: int, second: int, second_length_bytes: int) -> int:
    """CRC32 of two byte strings put together, from their own CRC32s and the length of the second."""
    return _fast().combine(first, second, second_length_bytes)


class Blake3:
    """Incremental BLAKE3 of bytes that arrive in order."""

    def __init__(self) -> None:
        from blake3 import blake3

        self._hasher: Any = blake3(max_threads=1)

    def update(self, data: Buffer) -> None:
        self._hasher.update(data)

    def hexdigest(self) -> str:
        """64 lower-case hex digits of everything so far."""
        return str(self._hasher.hexdigest())


def blake3_hex(data: Buffer) -> str:
    """BLAKE3 of `data` as 64 lower-case hex digits; large buffers are hashed on all cores."""
    from blake3 import blake3

    threads = blake3.AUTO if memoryview(data).nbytes >= _PARALLEL_FROM_BYTES else 1
    return str(blake3(data, max_threads=threads).hexdigest())
