"""Exact statistics against numpy and torch as references, for every dtype that is decoded, over many chunks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from apr.formats.apr2.dequantize import dequantize
from apr.formats.base import TensorEntry
from apr.formats.dtypes import ENCODINGS, DType, stored_size_bytes
from apr.quality import statistics
from apr.quality.statistics import tensor_statistics
from apr.storage.reading import SourceFile

NUMPY_TYPES = {
    DType.F64: "<f8",
    DType.F32: "<f4",
    DType.F16: "<f2",
    DType.I64: "<i8",
    DType.I32: "<i4",
    DType.I16: "<i2",
    DType.I8: "i1",
    DType.U64: "<u8",
    DType.U32: "<u4",
    DType.U16: "<u2",
    DType.U8: "u1",
    DType.BOOL: "?",
}


def entry_of(path: Path, dtype: DType, shape: tuple[int, ...], data: bytes) -> TensorEntry:
    path.write_bytes(b"head" + data)
    return TensorEntry("x", dtype, shape, SourceFile(path), 4, len(data))


@pytest.fixture(params=[4 << 20, 24])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One chunk for all, and chunks of a few values."""
    monkeypatch.setattr(statistics, "CHUNK_BYTES", request.param)
    return request.param


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_statistics_equal_numpy(tmp_path: Path, dtype: DType) -> None:
    values = (np.random.default_rng(5).normal(3, 20, 101)).astype(NUMPY_TYPES[dtype])
    values[7] = 0
    found = tensor_statistics(entry_of(tmp_path / "x", dtype, (101,), values.tobytes()))
    wide = values.astype(np.float64)
    assert (found.count, found.nan_count, found.inf_count) == (101, 0, 0)
    assert found.zero_count == int((values == 0).sum())
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert found.std == pytest.approx(wide.std(), rel=1e-12)
    assert (found.minimum, found.maximum) == (wide.min(), wide.max())


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F8_E4M3, DType.F8_E5M2])
def test_every_code_of_small_floats_is_decoded_as_torch_does(tmp_path: Path, dtype: DType) -> None:
    torch = pytest.importorskip("torch")
    torch_dtype = {DType.BF16: torch.bfloat16, DType.F8_E4M3: torch.float8_e4m3fn, DType.F8_E5M2: torch.float8_e5m2}
    element_bytes = ENCODINGS[dtype].block_bytes
    codes = np.arange(1 << (8 * element_bytes), dtype=f"<u{element_bytes}")
    wide = torch.from_numpy(codes.view(f"<i{element_bytes}")).view(torch_dtype[dtype]).double().numpy()
    finite = wide[np.isfinite(wide)]
    found = tensor_statistics(entry_of(tmp_path / "x", dtype, codes.shape, codes.tobytes()))
    assert (found.nan_count, found.inf_count) == (int(np.isnan(wide).sum()), int(np.isinf(wide).sum()))
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    assert found.std == pytest.approx(finite.std(), rel=1e-9)


@pytest.mark.usefixtures("chunk_bytes")
def test_not_finite_values_are_counted_and_left_out(tmp_path: Path) -> None:
    values = np.array([1.0, math.nan, math.inf, -math.inf, 3.0, 0.0], dtype="<f4")
    found = tensor_statistics(entry_of(tmp_path / "x", DType.F32, (6,), values.tobytes()))
    assert (found.count, found.nan_count, found.inf_count, found.zero_count) == (6, 1, 2, 1)
    assert found.mean == pytest.approx(4 / 3)
    assert (found.minimum, found.maximum) == (0.0, 3.0)


def test_nothing_finite_gives_no_mean(tmp_path: Path) -> None:
    values = np.full(3, math.nan, dtype="<f4")
    found = tensor_statistics(entry_of(tmp_path / "x", DType.F32, (3,), values.tobytes()))
    assert (found.nan_count, found.mean, found.std, found.minimum, found.maximum) == (3, None, None, None, None)


def test_an_empty_tensor_and_a_tied_placeholder_say_nothing(tmp_path: Path) -> None:
    assert tensor_statistics(entry_of(tmp_path / "a", DType.F32, (0, 4), b"")).count == 0
    placeholder = tensor_statistics(entry_of(tmp_path / "b", DType.F32, (2, 4), b""))
    assert placeholder.mean is None
    assert "tied head" in str(placeholder.problem)


@pytest.mark.usefixtures("chunk_bytes")
def test_apr_q8_is_scale_times_signed_byte(tmp_path: Path) -> None:
    data = np.float32(0.5).tobytes() + np.array([-127, 0, 2, 127], dtype=np.int8).tobytes()
    found = tensor_statistics(entry_of(tmp_path / "x", DType.APR_Q8, (2, 2), data))
    assert (found.minimum, found.maximum, found.zero_count, found.mean) == (-63.5, 63.5, 1, 0.25)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("dtype", [DType.Q4_K, DType.Q6_K, DType.APR_Q4])
def test_block_encodings_are_decoded_as_they_are_for_loading(tmp_path: Path, dtype: DType) -> None:
    data = np.random.default_rng(3).integers(0, 60, stored_size_bytes(dtype, 512), dtype=np.uint8).tobytes()
    wide = dequantize(data, dtype, (2, 256)).astype(np.float64)
    found = tensor_statistics(entry_of(tmp_path / "x", dtype, (2, 256), data))
    assert (found.count, found.minimum, found.maximum) == (512, wide.min(), wide.max())
    assert found.mean == pytest.approx(wide.mean(), rel=1e-9)


def test_a_mean_far_from_zero_keeps_its_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * 16)
    values = 1e8 + np.random.default_rng(0).normal(0, 1e-2, 4096)
    found = tensor_statistics(entry_of(tmp_path / "x", DType.F64, (4096,), values.tobytes()))
    assert found.std == pytest.approx(values.std(), rel=1e-4)
