"""What inspect, validate, lint and diff say of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apr.convert.exporting import export_checkpoint
from apr.convert.importing import import_checkpoint
from apr.errors import UsageError
from apr.formats.registry import open_checkpoint
from apr.quality.difference import header_differences, value_differences
from apr.quality.inspection import inspect_checkpoint
from apr.quality.lint import lint_checkpoint
from apr.quality.validation import validate_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.formats import crafted_gguf as gguf_file
from tests.formats.crafted_gguf import PAIRS, crafted, info, pair, text, words
from tests.gguf_models import write_gguf
from tests.tiny_models import VOCABULARY, save_tiny


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(save_tiny(folder / "qwen2", "qwen2"), folder / "x.gguf", "qwen2", "Q8_0")


def inspection(path: Path, **options: bool) -> dict[str, Any]:
    asked = {"with_quality": True, "with_vocabulary": True, "deep": True, **options}
    with open_checkpoint(path) as checkpoint:
        return inspect_checkpoint(checkpoint, shown_path=str(path), **asked)


def test_an_inspection_shows_dimensions_tokens_and_provenance_from_its_keys(honest: Path, tmp_path: Path) -> None:
    changes = StampChanges(license="MIT", data_source="the data", data_license="CC-BY-4.0")
    path = stamp_file(honest, changes, tmp_path / "x.gguf").output
    document = inspection(path)
    json.dumps(document)
    names = ("format", "container", "valid", "architecture", "hidden_size", "vocab_size")
    shown = {key: document[key] for key in names}
    assert shown == {
        "format": "GGUF",
        "container": "gguf",
        "valid": True,
        "architecture": "qwen2",
        "hidden_size": 64,
        "vocab_size": VOCABULARY,
    }
    assert document["dtypes"] == {"F32": 11, "Q8_0": 16}
    assert document["tokenizer"] == {"files": [], "row_count": VOCABULARY, "usable": True, "problem": None}
    assert len(document["vocabulary"]) == VOCABULARY
    assert document["metadata"]["license"] == "MIT"
    assert document["metadata"]["qwen2.context_length"] == 128
    assert document["metadata"]["tokenizer.chat_template"] == "{{ messages }}"
    assert document["metadata"]["tokenizer.ggml.tokens"] == {"array_of": "string", "count": VOCABULARY}
    assert "apr.history" not in document["metadata"]
    assert document["recorded"]["history"][0]["action"] == "stamp"
    assert document["quality"]["breakdown"] == {
        "physics": 20,
        "structural": 20,
        "provenance": 25,
        "hf_identity": 0,
        "tokenizer": 15,
    }


def test_a_list_of_datasets_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted([*PAIRS, words("general.datasets", ["one", "two"])]))
    assert inspection(path)["metadata"]["data_source"] == "one, two"
    path.write_bytes(crafted([*PAIRS, pair("general.license", gguf_file.STRING, text(" "))]))
    assert inspection(path)["metadata"]["license"] is None


def test_validation_says_what_it_looked_at_in_quantised_tensors(honest: Path, tmp_path: Path) -> None:
    with open_checkpoint(honest) as checkpoint:
        checks = {check.id: check for check in validate_checkpoint(checkpoint).checks}
    assert checks["finite"].detail == (
        "all values are finite; of 16 quantised tensors the scales of all blocks were looked at, which decide it"
    )
    assert checks["constant"].detail == "0 matrices; 16 quantised ones were not decoded"
    assert {check.status.value for check in checks.values()} == {"pass", "skip"}
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(crafted(PAIRS, [info("b", [32, 1], 9, 0)], bytes([1] * 40)))
    with open_checkpoint(unknown) as checkpoint:
        checks = {check.id: check for check in validate_checkpoint(checkpoint).checks}
    note = "1 tensors were read as bytes only, not for their values (Q8_1)"
    assert (checks["finite"].detail, checks["all-zero"].detail) == (
        f"all values are finite; {note}",
        f"1 matrices; {note}",
    )


@pytest.mark.parametrize(("scale", "counts"), [("nan", "32 NaN and 0"), ("inf", "1 NaN and 31")])
def test_validation_finds_the_scale_of_a_block_that_is_not_finite(scale: str, counts: str, tmp_path: Path) -> None:
    block = np.float16(scale).tobytes() + bytes(range(32))
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, [info("a", [32, 2], gguf_file.Q8_0_TENSOR, 0)], b"\0\x3c" + bytes(32) + block))
    with open_checkpoint(path) as checkpoint:
        validation = validate_checkpoint(checkpoint)
    checks = {check.id: check for check in validation.checks}
    assert (checks["finite"].status.value, validation.failed_tensors) == ("fail", ("a",))
    assert checks["finite"].detail == (
        f"{counts} infinite values in a; in 1 of them the scales of quantised blocks are not finite"
    )


def test_validation_warns_of_a_quantised_matrix_that_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, [info("a", [32, 2], gguf_file.Q8_0_TENSOR, 0)], (bytes(2) + bytes([7] * 32)) * 2))
    with open_checkpoint(path) as checkpoint:
        checks = {check.id: check for check in validate_checkpoint(checkpoint).checks}
    assert (checks["all-zero"].status.value, checks["all-zero"].detail) == ("warn", "a")


def test_lint_names_what_is_missing_with_commands_that_work(honest: Path, tmp_path: Path) -> None:
    with open_checkpoint(honest) as checkpoint:
        categories = {issue.category for issue in lint_checkpoint(checkpoint)}
        assert "Records" not in categories, "nothing that starts a run reads records of a GGUF file"
        issues = {issue.message: issue.suggestion for issue in lint_checkpoint(checkpoint)}
    assert f"apr stamp {honest} --license SPDX --in-place" in issues.values()
    assert not any("--tokenizer" in suggestion for suggestion in issues.values())
    bare = tmp_path / "x.gguf"
    bare.write_bytes(crafted(PAIRS[:-1]))
    with open_checkpoint(bare) as checkpoint:
        issues = {issue.message: issue.suggestion for issue in lint_checkpoint(checkpoint)}
    assert issues["no tokenizer is recorded"] == "convert the model again together with its tokenizer"


def test_a_difference_names_keys_and_values_and_not_the_room_that_a_stamp_left(honest: Path, tmp_path: Path) -> None:
    changes = StampChanges(
        license="MIT", settings={"tokenizer.chat_template": "{{ other }}", "qwen2.context_length": 7}
    )
    path = stamp_file(honest, changes, tmp_path / "x.gguf").output
    with open_checkpoint(honest) as first, open_checkpoint(path) as second:
        found = {each.field: (each.first, each.second) for each in header_differences(first, second)}
        assert list(value_differences(first, second)) == []
    assert found == {
        "general.license": ("(absent)", "MIT"),
        "qwen2.context_length": ("128", "7"),
        "tokenizer.chat_template": ("{{ messages }}", "{{ other }}"),
    }


def test_values_of_block_types_are_compared_decoded_or_as_bytes(tmp_path: Path) -> None:
    infos = [info("a", [32], gguf_file.Q8_0_TENSOR, 0), info("b", [32], 9, 64)]
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    block = b"\0\x3c" + bytes(32)
    one.write_bytes(crafted(PAIRS, infos, block.ljust(64, b"\0") + bytes(40)))
    other.write_bytes(crafted(PAIRS, infos, (block[:-1] + b"\2").ljust(64, b"\0") + bytes(39) + b"\1"))
    with open_checkpoint(one) as first, open_checkpoint(other) as second:
        found = {each.field: each.second for each in value_differences(first, second)}
    assert found["a"].endswith("1 of 32 values differ, by at most 2")
    assert found["b"].endswith("values of Q8_1 are not decoded")


def test_a_gguf_file_is_not_converted(honest: Path, tmp_path: Path) -> None:
    for convert in (
        lambda: import_checkpoint(honest, tmp_path / "x.apr"),
        lambda: export_checkpoint(honest, tmp_path / "x"),
    ):
        with pytest.raises(UsageError, match="not converted yet") as caught:
            convert()
        assert caught.value.where == str(honest)
    assert list(tmp_path.iterdir()) == []
