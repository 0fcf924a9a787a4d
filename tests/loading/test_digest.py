from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.formats.dtypes import DType
from apr.loading.digest import TensorDigest, weights_digest

LEAVES = [
    TensorDigest("a", DType.F32, (2, 3), "00" * 32),
    TensorDigest("b", DType.BF16, (4,), "11" * 32),
    TensorDigest("c", DType.F32, (), "22" * 32),
]


def test_order_of_tensors_does_not_matter():
    assert len({weights_digest(order) for order in permutations(LEAVES)}) == 1


@pytest.mark.parametrize(
    "changed",
    [
        LEAVES[0]._replace(name="A"),
        LEAVES[0]._replace(dtype=DType.F16),
        LEAVES[0]._replace(shape=(3, 2)),
        LEAVES[0]._replace(blake3_hex="01" + "00" * 31),
    ],
    ids=["name", "dtype", "shape", "bytes"],
)
def test_every_part_of_a_leaf_counts(changed):
    assert weights_digest([changed, *LEAVES[1:]]) != weights_digest(LEAVES)


@pytest.mark.parametrize("count", range(4))
def test_a_missing_tensor_counts(count):
    digests = {weights_digest(LEAVES[:kept]) for kept in range(count + 1)}
    assert len(digests) == count + 1


@given(st.lists(st.text(max_size=8), min_size=1, max_size=9, unique=True))
def test_a_node_cannot_pass_for_a_leaf(names):
    leaves = [TensorDigest(name, DType.U8, (1,), "ab" * 32) for name in names]
    root = weights_digest(leaves)
    assert root.startswith("blake3:")
    assert len(root) == 71
    assert weights_digest([TensorDigest("x", DType.U8, (1,), root.removeprefix("blake3:"))]) != root
