"""An atlas's data file: gzip members, the first for the index, one for each model type, read when they are needed.

Written by `tools/atlas_packing.py`. Every line is one JSON document; heads of a model type are told by what sets them
apart from its first entry.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

Document = Mapping[str, Any]

_GZIP = 16 + zlib.MAX_WBITS


class DataFile:
    """The data file in memory. head: its index; a member is unpacked when one of its entries is asked for."""

    def __init__(self, packed: bytes) -> None:
        # Neither importlib.resources nor gzip: importing them takes a tenth of what `apr inspect` may take.
        unpacker = zlib.decompressobj(wbits=_GZIP)
        first, *others = unpacker.decompress(packed).splitlines()
        self.head: Document = json.loads(first)
        members = self.head.get("members", [[0, 0]])
        self._packed = packed
        self._firsts: list[int] = [first for first, _ in members]
        start = len(packed) - len(unpacker.unused_data)
        self._starts = list(accumulate((size for _, size in members), initial=start))
        # A small file has everything in its first member.
        self._lines: dict[int, list[bytes]] = {0: others} if others else {}

    def document(self, at: int) -> Document:
        """The entry at place `at` of the index, whole."""
        document = self._read(at)
        return whole_entry(self._read(document["of"]), document) if "of" in document else document

    def _read(self, at: int) -> Document:
        member = bisect_right(self._firsts, at) - 1
        if member not in self._lines:
            packed = self._packed[self._starts[member] : self._starts[member + 1]]
            self._lines[member] = zlib.decompress(packed, wbits=_GZIP).splitlines()
        document: Document = json.loads(self._lines[member][at - self._firsts[member]])
        return document


def whole_entry(host: Document, told: Document) -> Document:
    """The entry that `told` tells by what sets it apart from `host`.

    bare: the prefix of the host's names that its names lack; lacks: places of the host's rows that it has not;
    tensors: rows that the host has not; every other key stands for itself.
    """
    bare, lacks = told.get("bare", ""), frozenset(told["lacks"])
    shared = [without_prefix(row, bare) for place, row in enumerate(host["tensors"]) if place not in lacks]
    return {**host, **told, "tensors": [*shared, *told["tensors"]]}


def without_prefix(row: list[Any], prefix: str) -> list[Any]:
    """The row of a base model for a row of a class that holds it under `prefix`."""
    if not prefix:
        return row
    pattern, dims, *rest = row
    if rest and "tied" in rest[0]:
        rest = [{**rest[0], "tied": rest[0]["tied"].removeprefix(prefix)}]
    return [pattern.removeprefix(prefix), dims, *rest]
