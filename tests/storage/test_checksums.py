"""The checksums agree with zlib and with themselves, whichever library computes them."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from apr.storage.checksums import Blake3, blake3_hex, combine_without_library, crc32, crc32_combine


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_crc32_is_the_ieee_one_and_can_be_continued(first: bytes, second: bytes) -> None:
    assert crc32(first) == zlib.crc32(first)
    assert crc32(second, crc32(first)) == zlib.crc32(first + second)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combined_crc32_equals_the_one_of_the_joined_bytes(first: bytes, second: bytes) -> None:
    expected = zlib.crc32(first + second)
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == expected
    assert combine_without_library(zlib.crc32(first), zlib.crc32(second), len(second)) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**50))
def test_plain_python_combines_like_the_library_for_lengths_of_whole_models(first: int, second: int, size: int) -> None:
    assert combine_without_library(first, second, size) == crc32_combine(first, second, size)


def test_blake3_of_known_bytes() -> None:
    # From https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json, input of 0 and 1 bytes.
    assert blake3_hex(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3_hex(b"\0") == "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


@given(st.binary(min_size=0, max_size=5000), st.integers(1, 999))
def test_incremental_blake3_does_not_depend_on_the_pieces(data: bytes, piece: int) -> None:
    hasher = Blake3()
    for start in range(0, len(data), piece):
        hasher.update(memoryview(data)[start : start + piece])
    assert hasher.hexdigest() == blake3_hex(data)


def test_large_buffers_hash_the_same_on_all_cores() -> None:
    data = bytes(range(256)) * 8192
    hasher = Blake3()
    hasher.update(data)
    assert blake3_hex(data) == hasher.hexdigest()
