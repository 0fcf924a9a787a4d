"""The longest stretch of zeros is found wherever it lies, whatever the chunks, and measured within its slice."""

from pathlib import Path

import numpy as np
import pytest

from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType
from apr.loading import values
from apr.loading.values import TensorFacts
from apr.storage.reading import SourceFile

GENERATOR = np.random.default_rng(0)


def facts_of(directory: Path, array: np.ndarray, name: str = "mlp.up_proj.weight") -> TensorFacts:
    path = directory / "bytes"
    path.write_bytes(array.astype("<f4").tobytes())
    return values.read_tensor_facts(TensorEntry(name, DType.F32, array.shape, SourceFile(path), 0, path.stat().st_size))


def weights(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape) + 10


@pytest.mark.parametrize("chunk_bytes", [64, 4096, 1 << 20])
@pytest.mark.parametrize(("start", "stop"), [(0, 5000), (1234, 6001), (3192, 8192), (10, 8190), (0, 8191), (1, 8192)])
def test_a_stretch_is_found_wherever_it_lies(tmp_path, monkeypatch, chunk_bytes, start, stop):
    monkeypatch.setattr(values, "CHUNK_BYTES", chunk_bytes)
    array = weights(128, 64)
    array.reshape(-1)[start:stop] = 0
    array.reshape(-1)[start + 100] = -0.0
    run = facts_of(tmp_path, array).zero_run
    # Blocks are not looked for in chunks that are shorter than one.
    if chunk_bytes > 64:
        assert run is not None
        assert (run.start, run.stop) == (start, stop)
        assert run.share == (stop - start) / 8192
        assert run.zeros_beside == 0


def test_rows_and_parts_of_rows_are_told_apart(tmp_path):
    for start, stop, cuts in ((0, 64 * 64, False), (30, 64 * 64, True), (64, 64 * 64 + 40, True), (60, 4096, False)):
        array = weights(128, 64)
        array.reshape(-1)[start:stop] = 0
        run = facts_of(tmp_path, array).zero_run
        assert run is not None
        assert run.cuts_a_row is cuts, (start, stop)


def test_an_expert_is_a_slice_of_its_own(tmp_path):
    for expert in range(4):
        array = weights(4, 32, 64)
        array[expert] = 0
        run = facts_of(tmp_path, array, "mlp.experts.down_proj").zero_run
        assert run is not None
        assert (run.start, run.stop, run.share) == (expert * 2048, (expert + 1) * 2048, 1.0)
    assert facts_of(tmp_path, weights(4, 32, 64), "mlp.experts.down_proj").zero_run is None


def test_a_stretch_over_two_experts_is_measured_in_each(tmp_path):
    array = weights(4, 32, 64)
    array.reshape(-1)[1024:3072] = 0
    run = facts_of(tmp_path, array, "mlp.experts.down_proj").zero_run
    assert run is not None
    assert run.share == 0.5


def test_zeros_that_are_spread_make_no_stretch(tmp_path):
    array = weights(512, 256) * (GENERATOR.random((512, 256)) >= 0.95)
    assert facts_of(tmp_path, array).zero_run is None


def test_zeros_beside_a_stretch_are_counted(tmp_path):
    array = weights(128, 64) * (GENERATOR.random((128, 64)) >= 0.8)
    array[:64] = 0
    run = facts_of(tmp_path, array).zero_run
    assert run is not None
    assert run.zeros_beside == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("chunk_bytes", [256, 4096, 1 << 20])
def test_equal_rows_are_known_across_chunks(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(values, "CHUNK_BYTES", chunk_bytes)
    array = np.repeat(weights(1, 48), 100, axis=0)
    assert facts_of(tmp_path, array).has_equal_rows
    array[99, 47] += 1
    assert not facts_of(tmp_path, array).has_equal_rows
    assert not facts_of(tmp_path, weights(100, 48)).has_equal_rows


def test_magnitudes_are_those_of_the_values_that_are_not_zero(tmp_path):
    array = GENERATOR.standard_normal((128, 96)) * 0.02
    array[::2] = 0
    low, middle, high = facts_of(tmp_path, array).magnitudes or (0, 0, 0)
    assert low == pytest.approx(0.02 * 0.0125, rel=0.6)
    assert middle == pytest.approx(0.02 * 0.6745, rel=0.1)
    assert high == pytest.approx(0.02 * 2.576, rel=0.1)
    assert facts_of(tmp_path, array[:4]).magnitudes is None
