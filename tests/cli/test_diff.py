"""`apr diff`: equal is equal in any container, and every planted difference is named once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.writing import tensor_from_bytes
from tests.quality.founding import write_founding_file


def write_tensors(path: Path, dtype: DType = DType.F32, **tensors: np.ndarray) -> Path:
    kinds = {DType.F32: "<f4", DType.F64: "<f8"}
    written = [tensor_from_bytes(name, dtype, each.shape, each.astype(kinds[dtype])) for name, each in tensors.items()]
    write_apr2(path, metadata={"name": "x"}, tensors=written)
    return path


def test_a_file_equals_its_copy(apr: Callable, tmp_path: Path) -> None:
    one, other = write_founding_file(tmp_path / "a.apr"), write_founding_file(tmp_path / "b.apr")
    answer = apr("diff", one, other, "--values", "--exit-code", "--json")
    assert (answer.exit_code, answer.document["identical"], answer.document["difference_count"]) == (0, True, 0)
    assert answer.document["schema"] == "apr.diff/1"


def test_stamps_and_metadata_are_told_once_each(apr: Callable, tmp_path: Path) -> None:
    one = write_founding_file(tmp_path / "a.apr")
    other = write_founding_file(tmp_path / "b.apr", architecture="qwen2", hf_model_type="qwen2", num_heads=8)
    document = apr("diff", one, other, "--values", "--json").document
    found = {row["field"]: (row["file1_value"], row["file2_value"]) for row in document["differences"]}
    assert found == {
        "architecture": ("LlamaForCausalLM", "qwen2"),
        "hf_model_type": ("(absent)", "qwen2"),
        "num_heads": ("4", "8"),
    }
    assert document["category_counts"] == {
        "format": 0,
        "metadata": 3,
        "config": 0,
        "tensor": 0,
        "quantization": 0,
        "values": 0,
    }


def test_tensors_are_compared_by_name_shape_dtype_and_value(apr: Callable, tmp_path: Path) -> None:
    same, moved = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    moved[1, 2] += 0.5
    one = write_tensors(tmp_path / "a.apr", same=same, moved=same, shaped=same, gone=same)
    other = write_tensors(tmp_path / "b.apr", same=same, moved=moved, shaped=same.T.copy(), new=same)
    headers = apr("diff", one, other, "--json").document["differences"]
    assert [(row["field"], row["category"]) for row in headers] == [
        ("gone", "tensor"),
        ("new", "tensor"),
        ("shaped", "tensor"),
    ]
    last = apr("diff", one, other, "--values", "--json").document["differences"][-1]
    assert (last["field"], last["category"]) == ("moved", "values")
    assert last["file2_value"].endswith("1 of 6 values differ, by at most 0.5")
    assert apr("diff", one, other, "--exit-code").exit_code == 5
    assert apr("diff", one, other).exit_code == 0


def test_another_dtype_is_told_as_such(apr: Callable, tmp_path: Path) -> None:
    values = np.ones((2, 2))
    one, other = write_tensors(tmp_path / "a.apr", w=values), write_tensors(tmp_path / "b.apr", DType.F64, w=values)
    rows = apr("diff", one, other, "--values", "--json").document["differences"]
    assert [(row["file1_value"], row["file2_value"], row["category"]) for row in rows] == [
        ("F32", "F64", "quantization")
    ]


@pytest.mark.parametrize(("options", "count"), [((), 40), (("--limit", "3"), 3), (("--limit", "0"), 67)])
def test_limit_shows_fewer_and_counts_all(apr: Callable, tmp_path: Path, options: tuple[str, ...], count: int) -> None:
    one = write_founding_file(tmp_path / "a.apr")
    other = write_tensors(tmp_path / "b.apr", **{f"t{number}": np.ones(2) for number in range(27)})
    document = apr("diff", one, other, *options, "--filter", ".", "--json").document
    listed = apr("diff", one, other, *options, "--json").document
    assert len(listed["differences"]) == min(count, listed["difference_count"])
    assert document["difference_count"] == 27


def test_names_from_the_files_are_escaped(apr: Callable, tmp_path: Path) -> None:
    one = write_tensors(tmp_path / "a.apr", **{"x\x1b[31m": np.ones(2)})
    shown = apr("diff", one, write_tensors(tmp_path / "b.apr", y=np.ones(2))).stdout
    assert "\x1b" not in shown
    assert r"x\x1b[31m" in shown
