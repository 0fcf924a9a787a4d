"""The bytes are those of the format's description: upstream's golden fixture, and a second reader by hand."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from apr.formats.apr2.metadata import Spelling
from apr.formats.apr2.read import read_apr2
from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.writing import TensorToWrite, tensor_from_bytes
from tests.formats.crafted_apr2 import SMALL, floats

# Upstream's golden fixture, docs/format-apr2.md "Test vector".
GOLDEN_METADATA = {
    "model_type": "linear_regression",
    "name": "golden-v2",
    "version": "0.0.0-golden",
    "created_at": "1700000000",
    "param_count": 8,
}
GOLDEN_JSON = (
    b'{"model_type":"linear_regression","name":"golden-v2","license":null,"data_source":null,"data_license":null,'
    b'"version":"0.0.0-golden","created_at":"1700000000","total_size":0,"param_count":8}'
)
GOLDEN_HEADER = bytes.fromhex(
    "4150520002000004020000004000000000000000bd00000000010000000000008001000000000000028cc03b" + "00" * 20
)
GOLDEN_INDEX = bytes.fromhex(
    "0400 62696173 00 01 0100000000000000 0000000000000000 0400000000000000"
    "0700 77656967687473 00 01 0800000000000000 4000000000000000 2000000000000000"
)
BIAS, WEIGHTS = floats(0.5), floats(1, 2, 3, 4, 5, 6, 7, 8)


def golden_tensors() -> list[TensorToWrite]:
    return [
        tensor_from_bytes("weights", DType.F32, (8,), WEIGHTS),
        tensor_from_bytes("bias", DType.F32, (1,), BIAS),
    ]


def test_the_golden_fixture_is_written_byte_for_byte(tmp_path: Path) -> None:
    written = write_apr2(tmp_path / "golden.apr", metadata=GOLDEN_METADATA, tensors=golden_tensors())
    body = GOLDEN_HEADER + GOLDEN_JSON.ljust(192, b"\0") + GOLDEN_INDEX.ljust(128, b"\0")
    body += BIAS.ljust(64, b"\0") + WEIGHTS.ljust(64, b"\0")
    assert (tmp_path / "golden.apr").read_bytes() == body + struct.pack("<I", zlib.crc32(body))
    assert written.size_bytes == 516


def test_the_golden_fixture_in_the_old_spelling_has_its_size_and_reads_the_same(tmp_path: Path) -> None:
    new, old = tmp_path / "new.apr", tmp_path / "old.apr"
    write_apr2(new, metadata=GOLDEN_METADATA, tensors=golden_tensors())
    written = write_apr2(old, metadata=GOLDEN_METADATA, tensors=golden_tensors(), spelling=Spelling.NULL)
    assert written.size_bytes == old.stat().st_size == 1092
    with read_apr2(new) as first, read_apr2(old) as second:
        assert second.metadata["hidden_size"] is None
        assert first.typed == second.typed == {}
        assert first.stamps == second.stamps == ()
        assert {name: entry.read_bytes() for name, entry in first.tensors.items()} == {
            name: entry.read_bytes() for name, entry in second.tensors.items()
        }
        assert first.problems == second.problems == second.verify_checksums() == ()


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.apr").write_bytes(SMALL.to_bytes())
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        forms = {name: (entry.dtype, entry.shape) for name, entry in checkpoint.tensors.items()}
        assert forms == {"a.weight": (DType.F32, (2, 3)), "b.bias": (DType.BF16, (5,)), "c": (DType.I64, ())}
        assert [entry.read_bytes() for entry in checkpoint.tensors.values()] == [each.data for each in SMALL.tensors]
        assert [(stamp.key.value, stamp.value) for stamp in checkpoint.stamps] == [
            ("architecture", "qwen2"),
            ("hf_architecture", "Qwen2ForCausalLM"),
        ]
        assert checkpoint.typed == {"hidden_size": 3}
        assert checkpoint.parameter_count == 12
        assert checkpoint.problems == checkpoint.verify_checksums() == ()


def read_by_hand(data: bytes) -> tuple[dict[str, object], dict[str, tuple[int, list[int], bytes]]]:
    """A second reader, as upstream's does it, for what the writer wrote."""
    magic, major, minor, _, count, meta_at, meta_size, index_at, data_at = struct.unpack_from("<4sBBHIQIQQ", data)
    assert (magic, major, minor) == (b"APR\0", 2, 0)
    assert struct.unpack_from("<I", data, 40) == (zlib.crc32(data[:40] + data[44:64]),)
    assert struct.unpack("<I", data[-4:]) == (zlib.crc32(data[:-4]),)
    assert all(offset % 64 == 0 for offset in (meta_at, index_at, data_at))
    tensors: dict[str, tuple[int, list[int], bytes]] = {}
    at, end = index_at, data_at
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        code, dimension_count = data[at], data[at + 1]
        dims = list(struct.unpack_from(f"<{dimension_count}Q", data, at + 2))
        offset, size = struct.unpack_from("<QQ", data, at + 2 + 8 * dimension_count)
        at += 18 + 8 * dimension_count
        assert offset % 64 == 0
        tensors[name] = (code, dims, data[data_at + offset : data_at + offset + size])
        end = max(end, data_at + offset + size)
    assert list(tensors) == sorted(tensors, key=str.encode)
    assert end + (-end % 64) + 4 == len(data)
    return json.loads(data[meta_at : meta_at + meta_size]), tensors


def test_a_second_reader_finds_what_was_written(tmp_path: Path) -> None:
    tensors = [
        tensor_from_bytes("z", DType.F16, (2, 2), b"\1\2\3\4\5\6\7\x08"),
        tensor_from_bytes("é", DType.APR_Q8, (3,), floats(0.5) + b"\1\2\3"),
        tensor_from_bytes("empty", DType.F32, (0, 4), b""),
        tensor_from_bytes("scalar", DType.F64, (), bytes(8)),
        TensorToWrite("lm_head.weight", DType.F32, (7, 3), lambda: (), declared_size_bytes=0),
    ]
    metadata = {"name": "größe", "rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_size": 896, "mine": {"a": [1, 2.5]}}
    write_apr2(tmp_path / "x.apr", metadata=metadata, tensors=tensors)
    found, stored = read_by_hand((tmp_path / "x.apr").read_bytes())
    assert stored == {
        "empty": (0, [0, 4], b""),
        "lm_head.weight": (0, [7, 3], b""),
        "scalar": (3, [], bytes(8)),
        "z": (1, [2, 2], b"\1\2\3\4\5\6\7\x08"),
        "é": (129, [3], floats(0.5) + b"\1\2\3"),
    }
    assert found["name"] == "größe"
    assert found["rope_theta"] == 1e6
    assert list(found) == [
        "model_type", "name", "license", "data_source", "data_license", "total_size", "param_count", "hidden_size",
        "rope_theta", "rms_norm_eps", "mine",
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "dtype"), [(2, DType.BF16), (30, DType.BF16), (8, DType.APR_Q4), (128, DType.APR_Q4)])
def test_old_dtype_codes_are_read(tmp_path: Path, code: int, dtype: DType) -> None:
    data = bytes(2 * 32) if dtype is DType.BF16 else bytes(18)
    file = SMALL.but_tensor(0, code=code, dims=(32,), data=data)
    (tmp_path / "x.apr").write_bytes(file.to_bytes())
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.tensors["a.weight"].dtype is dtype


def test_the_zero_byte_tied_head_survives_reading_and_copying(tmp_path: Path) -> None:
    from apr.formats.writing import copy_of

    file = SMALL.but_tensor(2, name=b"lm_head.weight", code=0, dims=(9, 3), data=b"")
    (tmp_path / "x.apr").write_bytes(file.to_bytes())
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        head = checkpoint.tensors["lm_head.weight"]
        assert head.is_placeholder
        assert checkpoint.problems == ()
        assert checkpoint.parameter_count == 11
        write_apr2(tmp_path / "y.apr", metadata={}, tensors=[copy_of(entry) for entry in checkpoint.tensors.values()])
    with read_apr2(tmp_path / "y.apr") as copied:
        assert copied.tensors["lm_head.weight"].is_placeholder
        assert copied.tensors["lm_head.weight"].shape == (9, 3)


def test_data_in_another_order_than_the_index_is_read(tmp_path: Path) -> None:
    first, second, third = (each.data for each in SMALL.tensors)
    file = SMALL.but_tensor(0, offset=128).but_tensor(1, offset=0).but_tensor(2, offset=64)
    data = bytearray(file.to_bytes())
    start = len(data) - 4 - 192
    data[start : start + 192] = second.ljust(64, b"\0") + third.ljust(64, b"\0") + first.ljust(64, b"\0")
    data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
    (tmp_path / "x.apr").write_bytes(data)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert [entry.read_bytes() for entry in checkpoint.tensors.values()] == [first, second, third]
        assert checkpoint.problems == checkpoint.verify_checksums() == ()


def test_training_tensors_of_upstream_are_kept_as_entries(tmp_path: Path) -> None:
    file = SMALL.but_tensor(0, name=b"__training__.embed_optimizer.m")
    (tmp_path / "x.apr").write_bytes(file.to_bytes())
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert "__training__.embed_optimizer.m" in checkpoint.tensors
