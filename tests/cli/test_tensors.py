"""`apr tensors` and `apr validate` on the command line: what they list, what they refuse, in both modes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.writing import tensor_from_bytes
from tests.quality.founding import write_founding_file


def write_values(path: Path, values: np.ndarray) -> Path:
    tensor = tensor_from_bytes("w\x1b[31m", DType.F32, values.shape, values.astype("<f4"))
    write_apr2(path, metadata={"name": "x"}, tensors=[tensor])
    return path


def test_json_has_the_founding_projects_keys(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    document = apr("tensors", path, "--json").document
    assert (document["schema"], document["file"], document["format_version"]) == ("apr.tensors/1", str(path), "v2")
    assert document["tensor_count"] == len(document["tensors"]) == 27
    assert document["total_size_bytes"] == sum(row["size_bytes"] for row in document["tensors"])
    first = document["tensors"][0]
    assert [first[key] for key in ("name", "shape", "dtype", "size_bytes")] == [
        "lm_head.weight",
        [96, 32],
        "F32",
        12288,
    ]
    assert "mean" not in first


def test_statistics_equal_numpy(apr: Callable, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(0, 2, (50, 7)).astype("<f4")
    row = apr("tensors", write_values(tmp_path / "x.apr", values), "--stats", "--json").document["tensors"][0]
    assert (row["mean"], row["std"]) == pytest.approx((values.mean(dtype=float), values.std(dtype=float)))
    assert (row["min"], row["max"], row["nan_count"], row["inf_count"]) == (values.min(), values.max(), 0, 0)


@pytest.mark.parametrize(
    ("pattern", "count"), [("q_proj", 4), ("*.q_proj.bias", 2), ("model.layers.?.mlp.*", 6), ("[q]", 0), ("nosuch", 0)]
)
def test_filter_is_a_text_or_a_glob(apr: Callable, tmp_path: Path, pattern: str, count: int) -> None:
    document = apr("tensors", write_founding_file(tmp_path / "x.apr"), "--filter", pattern, "--json").document
    assert (document["matching_count"], len(document["tensors"]), document["tensor_count"]) == (count, count, 27)


def test_limit_lists_fewer_and_says_so(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    assert len(apr("tensors", path, "--limit", "3", "--json").document["tensors"]) == 3
    shown = apr("tensors", path, "--limit", "3").stdout
    assert shown.endswith("3 of 27 tensors, 24 more match\n")
    assert len(apr("tensors", path, "--limit", "0", "--json").document["tensors"]) == 27


def test_names_from_the_file_are_escaped(apr: Callable, tmp_path: Path) -> None:
    shown = apr("tensors", write_values(tmp_path / "x.apr", np.ones((2, 2))), "--stats").stdout
    assert "\x1b" not in shown
    assert r"w\x1b[31m" in shown


def test_a_sound_file_is_valid(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    answer = apr("validate", path)
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert answer.stdout.endswith("VALID\n")
    document = apr("validate", path, "--json").document
    assert (document["schema"], document["verdict"], document["failed"]) == ("apr.validate/1", "VALID", 0)
    assert (document["total_score"], document["content_passed"], document["content_total_nan"]) == (100, True, 0)


def test_damage_exits_4_and_bad_values_exit_5(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "damaged.apr")
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    answer = apr("validate", path)
    assert answer.exit_code == 4
    assert answer.stdout.endswith("INVALID\n")
    assert "fetch or restore an intact copy" in answer.stderr
    document = apr("validate", path, "--json").document
    assert (document["verdict"], document["content_passed"]) == ("INVALID", True)

    values = np.array([[1.0, np.nan], [np.inf, 2.0]])
    answer = apr("validate", write_values(tmp_path / "nan.apr", values), "--json")
    assert answer.exit_code == 5
    assert (answer.document["content_total_nan"], answer.document["content_total_inf"]) == (1, 1)
    assert answer.document["content_failed_tensors"] == ["w\x1b[31m"]


def test_strict_lets_an_empty_matrix_fail(apr: Callable, tmp_path: Path) -> None:
    path = write_values(tmp_path / "x.apr", np.zeros((4, 4)))
    assert apr("validate", path).exit_code == 0
    answer = apr("validate", path, "--strict", "--json")
    assert (answer.exit_code, answer.document["content_all_zero_tensors"]) == (5, ["w\x1b[31m"])


@pytest.mark.parametrize("cut", [1, 10, 64, 1000, 20_000])
def test_a_truncated_file_is_damaged(apr: Callable, tmp_path: Path, cut: int) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    path.write_bytes(path.read_bytes()[:-cut])
    assert apr("validate", path).exit_code == 4
