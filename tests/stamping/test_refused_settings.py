"""What `--set` and other texts may not be: a usage error before anything is written, whatever the container."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.errors import ExitCode, RefusedError, UsageError
from apr.gates.finding import Status
from apr.gates.road import RoadOptions, examine
from apr.stamping.changes import MOST_NESTING, StampChanges, parse_setting
from apr.stamping.patch import stamp_file
from tests.gguf_models import write_gguf
from tests.stamping.conftest import Lie, files_below


@pytest.fixture
def gguf(honest_qwen2: Path, tmp_path: Path) -> Path:
    (tmp_path / "gguf").mkdir()
    return write_gguf(honest_qwen2, tmp_path / "gguf" / "model.gguf", "qwen2", "F32")


def refusals(path: Path) -> set[str]:
    examination = examine(path, RoadOptions(run_kind=None))
    examination.close()
    return {finding.id for finding in examination.findings if finding.status is Status.REFUSE}


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
@pytest.mark.parametrize("key", ["split.count", "split.no", "split.tensors.count"])
def test_what_part_of_a_model_a_file_is_is_not_set(gguf: Path, key: str) -> None:
    before = gguf.read_bytes()
    with pytest.raises(UsageError, match="cannot be set with --set") as caught:
        stamp_file(gguf, StampChanges(settings={key: 3}), in_place=True)
    assert "llama-gguf-split" in str(caught.value.remedy)
    assert gguf.read_bytes() == before


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_file_that_would_contradict_itself_is_taken_back(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line behind the list of keys: the reopened file shows no contradiction that was not there."""
    monkeypatch.setattr("apr.stamping.edit_gguf.SPLIT_PREFIX", "nothing begins so")
    before = gguf.read_bytes()
    with pytest.raises(RefusedError, match="would contradict itself") as caught:
        stamp_file(gguf, StampChanges(settings={"split.count": 3}), in_place=True)
    assert caught.value.invariant == "INV-FILE-INTEGRITY-001"
    assert gguf.read_bytes() == before


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
@pytest.mark.parametrize("key", ["key_length", "value_length"])
def test_a_head_width_that_the_projections_do_not_have_is_refused(gguf: Path, key: str) -> None:
    with pytest.raises(RefusedError) as caught:
        stamp_file(gguf, StampChanges(settings={f"qwen2.attention.{key}": 8}), in_place=True)
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"


def test_the_head_width_that_the_projections_have_is_written(gguf: Path) -> None:
    width = 16
    for settings in (
        {"qwen2.attention.key_length": width},
        {"qwen2.attention.value_length": width},
        {"qwen2.rope.dimension_count": width},
    ):
        stamp_file(gguf, StampChanges(settings=settings), in_place=True)
        assert refusals(gguf) == set()


def test_a_key_that_no_reader_takes_is_a_usage_error(gguf: Path) -> None:
    before = gguf.read_bytes()
    with pytest.raises(UsageError, match="cannot be set") as caught:
        stamp_file(gguf, StampChanges(settings={"x" * 70_000: 1}), in_place=True)
    assert "65535 bytes" in str(caught.value.remedy)
    assert len(str(caught.value)) < 1000
    assert gguf.read_bytes() == before


def test_a_text_without_a_utf8_form_is_a_usage_error_naming_its_flag(lie: Lie) -> None:
    before = files_below(lie.path.parent)
    name = "general.x" if lie.container == "gguf" else "x"
    for changes, options, where in (
        (lie.repair._replace(settings={name: "\ud800"}), {}, f"--set {name}"),
        (lie.repair._replace(settings={name: {"a": ["\udcff"]}}), {}, f"--set {name}"),
        (lie.repair._replace(settings={f"{name}\udcff": 1}), {}, "--set"),
        (lie.repair._replace(data_source="a\udcffb"), {}, "--data-source"),
        (lie.repair, {"reason": "a\udcffb"}, "--reason"),
        (lie.repair, {"force_reason": "a\udcffb"}, "--force-untrue"),
    ):
        for dry_run in (True, False):
            with pytest.raises(UsageError, match="not Unicode") as caught:
                stamp_file(lie.path, changes, in_place=True, dry_run=dry_run, **options)  # type: ignore[arg-type]
            assert caught.value.where == where
    assert files_below(lie.path.parent) == before


@pytest.mark.parametrize("depth", [MOST_NESTING + 1, 600, 50_000])
def test_a_value_nested_too_deeply_is_a_usage_error(
    apr: Callable[..., Any], make_lie: Callable[[str], Lie], depth: int
) -> None:
    for container in ("apr", "hf", "safetensors"):
        path = make_lie(container).path
        answer = apr("stamp", path, "--set", f"x={'[' * depth}{']' * depth}", "--in-place", "--json")
        assert answer.exit_code == ExitCode.USAGE
        assert "nested too deeply" in json.loads(answer.stdout)["error"]["message"]


def test_a_value_of_some_depth_is_written(make_lie: Callable[[str], Lie]) -> None:
    depth = MOST_NESTING - 1
    key, value = parse_setting(f"x={'[' * depth}1{']' * depth}")
    lie = make_lie("apr")
    stamp_file(lie.path, lie.repair._replace(settings={key: value}), in_place=True)
    stamp_file(lie.path, StampChanges(), in_place=True, undo=True)
