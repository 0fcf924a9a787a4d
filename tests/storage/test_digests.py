"""Sums of many extents equal the sums of their bytes, in order, however the cores share them."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise
from pathlib import Path

from apr.storage.checksums import blake3_hex
from apr.storage.digests import Extent, crc32_of, sum_extents
from apr.storage.reading import SourceFile


def test_sums_of_extents_in_order(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_000)
    (tmp_path / "x").write_bytes(data)
    cuts = [0, 1, 1, 70_000, 1_500_000, 2_999_999, 3_000_000]
    extents = [Extent(a, b - a, wants_blake3=a % 2 == 0) for a, b in pairwise(cuts)]
    sums = sum_extents(SourceFile(tmp_path / "x"), extents)
    assert [each.extent for each in sums] == extents
    assert crc32_of(sums) == zlib.crc32(data)
    for each in sums:
        part = data[each.extent.offset_bytes :][: each.extent.size_bytes]
        assert each.crc32 == zlib.crc32(part)
        assert each.blake3_hex == (blake3_hex(part) if each.extent.wants_blake3 else None)


def test_nothing_to_sum(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    assert sum_extents(SourceFile(tmp_path / "x"), []) == []
    assert crc32_of([]) == 0
