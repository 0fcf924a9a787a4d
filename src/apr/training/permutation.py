"""A seeded shuffle of any number of items as a pure function: no list is kept, any position can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr.errors import UsageError

if TYPE_CHECKING:
    import numpy

ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Permutation:
    """The bijection of `range(count)` named by `key` (a text): `permutation.at(positions)` gives the items there.

    A Feistel network over the smallest even number of bits that holds `count`, walked until it lands inside the
    range (format-preserving encryption by cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002). Memory does not grow with `count`; the same key and count give the same order on every machine.
    """

    def __init__(self, count: int, key: str) -> None:
        from blake3 import blake3

        if count < 1:
            raise UsageError("a shuffle needs at least one item", found=str(count))
        self.count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        material = blake3(b"apr.permutation/1\n" + key.encode()).digest(length=8 * ROUNDS)
        self._keys = [int.from_bytes(material[8 * i : 8 * i + 8], "little") for i in range(ROUNDS)]

    def at(self, positions: numpy.ndarray) -> numpy.ndarray:
        """The items (int64) at `positions`, each in `range(count)`."""
        import numpy

        items = self._rounds(positions.astype(numpy.uint64))
        outside = items >= self.count
        while outside.any():
            items[outside] = self._rounds(items[outside])
            outside = items >= self.count
        return items.astype(numpy.int64)

    def _rounds(self, values: numpy.ndarray) -> numpy.ndarray:
        import numpy

        half = numpy.uint64(self._half_bits)
        mask = numpy.uint64((1 << self._half_bits) - 1)
        left, right = values >> half, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right, key) & mask)
        return (left << half) | right


def _mixed(values: numpy.ndarray, key: int) -> numpy.ndarray:
    """The SplitMix64 finaliser of `values + key` (Steele, Lea and Flood, OOPSLA 2014); wraps modulo 2**64."""
    import numpy

    mixed = values + numpy.uint64((key + _GOLDEN) & _MASK)
    mixed = (mixed ^ (mixed >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> numpy.uint64(31))
