"""The deep pass sees what is in the bytes, for every dtype, across chunk borders."""

from pathlib import Path

import numpy as np
import pytest

from apr.errors import DamagedFileError
from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType
from apr.loading import values
from apr.storage.reading import SourceFile


def entry_of(directory: Path, raw: bytes, dtype: DType, shape: tuple[int, ...]) -> TensorEntry:
    path = directory / "bytes"
    path.write_bytes(b"head" + raw)
    return TensorEntry("weight", dtype, shape, SourceFile(path), 4, len(raw))


def bfloat16(array: np.ndarray) -> bytes:
    return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


ENCODERS = {
    DType.F64: lambda array: array.astype("<f8").tobytes(),
    DType.F32: lambda array: array.astype("<f4").tobytes(),
    DType.F16: lambda array: array.astype("<f2").tobytes(),
    DType.BF16: bfloat16,
}


@pytest.mark.parametrize("dtype", ENCODERS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_non_finite_value_anywhere_is_counted(tmp_path, monkeypatch, dtype, poison):
    monkeypatch.setattr(values, "CHUNK_BYTES", 64)
    clean = np.linspace(-3, 5, 100)
    assert values.read_tensor_facts(entry_of(tmp_path, ENCODERS[dtype](clean), dtype, (100,))).non_finite_count == 0
    for index in (0, 31, 32, 99):
        poisoned = clean.copy()
        poisoned[index] = poison
        facts = values.read_tensor_facts(entry_of(tmp_path, ENCODERS[dtype](poisoned), dtype, (100,)))
        assert facts.non_finite_count == 1, index


@pytest.mark.parametrize("dtype", ENCODERS)
def test_moments_are_those_of_the_values(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(values, "CHUNK_BYTES", 64)
    array = np.array([0.5, -1.5, 2.0, 8.0] * 25)
    facts = values.read_tensor_facts(entry_of(tmp_path, ENCODERS[dtype](array), dtype, (100,)))
    assert facts.mean == pytest.approx(array.mean())
    assert facts.std == pytest.approx(array.std())
    assert (facts.minimum, facts.maximum, facts.sampled_count) == (-1.5, 8.0, 100)


@pytest.mark.parametrize("dtype", ENCODERS)
def test_zero_and_constant_are_told_apart(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(values, "CHUNK_BYTES", 64)
    rows = {"zero": np.zeros(100), "minus zero": np.full(100, -0.0), "constant": np.ones(100)}
    rows["one late value"] = np.r_[np.zeros(99), 1.0]
    found = {
        name: values.read_tensor_facts(entry_of(tmp_path, ENCODERS[dtype](array), dtype, (100,)))
        for name, array in rows.items()
    }
    assert {name: facts.is_all_zero for name, facts in found.items()} == {
        "zero": True,
        "minus zero": True,
        "constant": False,
        "one late value": False,
    }
    assert found["constant"].is_constant
    assert not found["one late value"].is_constant


def test_fp8_codes_for_nan_are_not_finite(tmp_path):
    raw = bytes([0x00, 0x7E, 0x7F, 0xFF, 0xFE])
    assert values.read_tensor_facts(entry_of(tmp_path, raw, DType.F8_E4M3, (5,))).non_finite_count == 2
    assert values.read_tensor_facts(entry_of(tmp_path, raw, DType.F8_E5M2, (5,))).non_finite_count == 4


def test_the_digest_is_blake3_of_the_stored_bytes(tmp_path, monkeypatch):
    from blake3 import blake3

    monkeypatch.setattr(values, "CHUNK_BYTES", 64)
    raw = np.arange(100, dtype="<f4").tobytes()
    assert values.read_tensor_facts(entry_of(tmp_path, raw, DType.F32, (100,))).blake3_hex == blake3(raw).hexdigest()


def test_a_file_that_shrinks_meanwhile_is_damaged(tmp_path):
    entry = entry_of(tmp_path, b"\0" * 400, DType.F32, (100,))
    (tmp_path / "bytes").write_bytes(b"head")
    with pytest.raises(DamagedFileError, match="shrank while"):
        values.read_tensor_facts(entry)
