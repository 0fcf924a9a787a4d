"""The weights digest: one hash of all tensors, equal for equal weights in every container."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from apr.formats.dtypes import DType


class TensorDigest(NamedTuple):
    """One leaf: `blake3_hex` is over the stored bytes, in row-major order, without padding."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    blake3_hex: str


def weights_digest(leaves: Iterable[TensorDigest]) -> str:
    """Merkle root over the leaves sorted by name, as `blake3:<hex>`.

    A leaf is blake3 over compact JSON of [name, dtype, shape, digest]; a node is blake3 over 0x01 and its two
    children; an odd node moves up unchanged. Leaves hash with a leading 0x00, so that a node cannot pass for a leaf.
    No leaves at all give the hash of an empty leaf list, never an empty text.
    """
    from blake3 import blake3

    def hash_leaf(leaf: TensorDigest) -> bytes:
        fields = [leaf.name, leaf.dtype.value, list(leaf.shape), leaf.blake3_hex]
        return blake3(b"\x00" + json.dumps(fields, separators=(",", ":")).encode()).digest()

    level = [hash_leaf(leaf) for leaf in sorted(leaves)]
    if not level:
        return "blake3:" + blake3(b"\x00[]").hexdigest()
    while len(level) > 1:
        pairs = [level[index : index + 2] for index in range(0, len(level), 2)]
        level = [blake3(b"\x01" + pair[0] + pair[1]).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return "blake3:" + level[0].hex()
