"""Matrices that hold no weights are told from weights of every kind: trained, fresh, pruned, quantised, decayed."""

from pathlib import Path

import numpy as np
import pytest

from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType
from apr.loading.implausible import Misread, has_absurd_width, has_equal_rows, hole_of, large_gap_of, misread_as
from apr.loading.siblings import equal_projections
from apr.loading.values import TensorFacts, read_tensor_facts
from apr.storage.reading import SourceFile

GENERATOR = np.random.default_rng(0)
FRESH = (GENERATOR.standard_normal((128, 96)) * 0.02).astype("<f4")
ROWS = np.exp(0.6 * GENERATOR.standard_normal((128, 1)))
TRAINED = (FRESH * ROWS * (1 + 10 * np.abs(FRESH))).astype("<f4")
UP = "model.layers.0.mlp.up_proj.weight"


def facts_of(directory: Path, array: np.ndarray, name: str = UP, dtype: DType = DType.F32) -> TensorFacts:
    path = directory / f"{name}.bytes"
    path.write_bytes(array.tobytes())
    return read_tensor_facts(TensorEntry(name, dtype, array.shape, SourceFile(path), 0, path.stat().st_size))


def bf16_bits(array: np.ndarray) -> np.ndarray:
    return (array.astype("<f4").view("<u4") >> 16).astype("<u2")


def half_dead(decay: float) -> np.ndarray:
    """Units that get no gradient, each after another time of weight decay."""
    rows = np.where(GENERATOR.random((128, 1)) < 0.6, 10.0 ** (-decay * GENERATOR.random((128, 1))), 1.0)
    return (TRAINED * rows).astype("<f4")


HEALTHY = {
    "trained": TRAINED,
    "fresh": FRESH,
    "uniform": GENERATOR.uniform(-0.03, 0.03, (128, 96)),
    "wide": FRESH * 5000,
    "narrow": FRESH * 1e-5,
    "pruned": TRAINED * (GENERATOR.random((128, 96)) >= 0.95),
    "pruned rows": TRAINED * (GENERATOR.random((128, 1)) >= 0.7),
    "one head of four": TRAINED * (np.arange(128)[:, None] // 32 == 2),
    "half dead": half_dead(12),
    "long dead": half_dead(30),
    "signs": np.sign(TRAINED),
    "signs times rows": np.sign(TRAINED) * ROWS,
    "ternary": np.clip(np.round(TRAINED / np.abs(TRAINED).mean()), -1, 1),
    "four bits": np.round(TRAINED / TRAINED.std()) * TRAINED.std(),
    "identity": np.eye(128),
    "rotation": np.linalg.qr(GENERATOR.standard_normal((128, 128)))[0],
    "waves": np.sin(np.arange(128)[:, None] * 10000.0 ** (-np.arange(96) / 96)),
    "uniform about one": GENERATOR.uniform(0.5, 2, (128, 96)),
    "heavy tails": GENERATOR.standard_t(3, (128, 96)) * 0.02,
    "log-uniform": np.sign(FRESH) * 10.0 ** GENERATOR.uniform(-4, 0, (128, 96)),
}


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
def test_healthy_matrices_are_let_be(tmp_path, kind, dtype):
    array = HEALTHY[kind].astype("<f4")
    stored = {DType.F32: array, DType.F16: array.astype("<f2"), DType.BF16: bf16_bits(array)}[dtype]
    seen = facts_of(tmp_path, stored, dtype=dtype)
    assert hole_of(seen) is None
    assert not has_equal_rows(seen)
    assert not has_absurd_width(seen)
    assert misread_as(seen) is None


@pytest.mark.parametrize("scale", [1e-2, 1, 10])
@pytest.mark.parametrize("kind", ["trained", "fresh", "heavy tails"])
def test_bf16_read_as_f16_is_known(tmp_path, kind, scale):
    bits = bf16_bits(HEALTHY[kind] * scale)
    assert misread_as(facts_of(tmp_path, bits, dtype=DType.F16)) is Misread.BF16_AS_F16
    assert misread_as(facts_of(tmp_path, bits.view("<f2").astype("<f4"))) is Misread.BF16_AS_F16
    assert misread_as(facts_of(tmp_path, bits, dtype=DType.BF16)) is None


@pytest.mark.parametrize("kind", ["trained", "fresh", "heavy tails"])
def test_f16_read_as_bf16_is_known(tmp_path, kind):
    bits = np.clip(HEALTHY[kind], -0.4, 0.4).astype("<f2").view("<u2")
    assert misread_as(facts_of(tmp_path, bits, dtype=DType.BF16)) is Misread.F16_AS_BF16
    assert misread_as(facts_of(tmp_path, bits, dtype=DType.F16)) is None


@pytest.mark.parametrize(("scale", "is_absurd"), [(1e6, True), (1e-20, True), (1e4, False), (1e-8, False)])
def test_the_bounds_of_widths_are_far_out(tmp_path, scale, is_absurd):
    assert has_absurd_width(facts_of(tmp_path, TRAINED * np.float32(scale))) is is_absurd
    table = facts_of(tmp_path, TRAINED * np.float32(scale), "model.embed_tokens.weight")
    assert has_absurd_width(table) is is_absurd


def test_what_is_no_projection_may_have_any_width(tmp_path):
    tiny, huge = TRAINED * np.float32(1e-20), TRAINED * np.float32(1e6)
    assert not has_absurd_width(facts_of(tmp_path, tiny, "model.layers.0.mlp.experts.3.up_proj.weight"))
    assert not has_absurd_width(facts_of(tmp_path, huge, "model.layers.0.mixer.A_log"))
    assert not has_absurd_width(facts_of(tmp_path, huge, "model.layers.0.mlp.gate.weight"))


@pytest.mark.parametrize(
    ("start", "stop", "is_hole", "is_gap"),
    [
        (0, 12042, True, False),
        (100, 12188, True, False),
        (4000, 8000, True, False),
        (0, 64 * 96, False, True),
        (32 * 96, 124 * 96, False, True),
        (0, 124 * 96, True, False),
        (0, 2000, False, False),
    ],
)
def test_a_hole_breaks_off_in_a_row_or_leaves_next_to_nothing(tmp_path, start, stop, is_hole, is_gap):
    array = TRAINED.copy()
    array.reshape(-1)[start:stop] = 0
    seen = facts_of(tmp_path, array)
    assert (hole_of(seen) is not None, large_gap_of(seen) is not None) == (is_hole, is_gap)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mixer.A_log", "model.embed_tokens.weight", "model.layers.0.mlp.gate.weight"]
)
def test_rows_may_be_equal_where_a_class_makes_them_so(tmp_path, name):
    array = np.repeat(TRAINED[:1], 128, axis=0)
    assert has_equal_rows(facts_of(tmp_path, array))
    assert not has_equal_rows(facts_of(tmp_path, array, name))


def projections(directory: Path, arrays: dict[str, np.ndarray]) -> dict[str, TensorFacts]:
    return {name: facts_of(directory, array, name) for name, array in arrays.items()}


def block(layer: int, name: str) -> str:
    return f"model.layers.{layer}.self_attn.{name}_proj.weight"


def test_equal_projections_in_one_block_are_a_slip_and_in_every_block_a_choice(tmp_path):
    own = {block(layer, name): TRAINED + layer + ord(name) for layer in range(3) for name in "kv"}
    assert equal_projections(projections(tmp_path, own)) == ()
    one = {**own, block(1, "v"): own[block(1, "k")]}
    ((first, second, is_everywhere),) = equal_projections(projections(tmp_path, one))
    assert (first, second, is_everywhere) == (block(1, "k"), block(1, "v"), False)
    every = {**own, **{block(layer, "v"): own[block(layer, "k")] for layer in range(3)}}
    assert [pair.is_everywhere for pair in equal_projections(projections(tmp_path, every))] == [True] * 3


def test_equal_matrices_of_two_blocks_or_of_experts_or_put_there_by_hand_are_let_be(tmp_path):
    pairs = [
        (block(0, "k"), block(1, "k")),
        ("decoder.layers.0.self_attn.k_proj.weight", "decoder.layers.0.encoder_attn.k_proj.weight"),
        ("model.layers.0.mlp.experts.0.gate_proj.weight", "model.layers.0.mlp.experts.0.up_proj.weight"),
    ]
    for pair in pairs:
        assert equal_projections(projections(tmp_path, dict.fromkeys(pair, TRAINED))) == ()
    by_hand = dict.fromkeys((block(0, "q"), block(0, "o")), np.eye(128, dtype="<f4"))
    assert equal_projections(projections(tmp_path, by_hand)) == ()
