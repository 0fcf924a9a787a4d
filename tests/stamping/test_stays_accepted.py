"""A checkpoint that every gate accepts is not stamped into one that a gate refuses, unless somebody says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from apr.convert.importing import import_checkpoint
from apr.errors import RefusedError
from apr.formats.base import Checkpoint
from apr.formats.registry import open_checkpoint
from apr.gates.finding import Status
from apr.gates.road import RoadOptions, examine
from apr.stamping import in_place
from apr.stamping.changes import StampChanges
from apr.stamping.patch import editor_of, stamp_file
from tests.gguf_models import write_gguf
from tests.stamping.conftest import QWEN2, Lie, files_below

WORSE: dict[str, tuple[str, dict[str, Any]]] = {
    "apr": ("INV-INIT-CONFIG-001", {"rms_norm_eps": -1.0}),
    "hf": ("INV-INIT-SHAPE-001", {"num_attention_heads": 8}),
    "gguf": ("INV-STAMP-TRUTH-001", {"qwen2.feed_forward_length": 128}),
}
"""For each container a setting that brings a refusal in."""


@pytest.fixture(params=WORSE)
def honest(request: pytest.FixtureRequest, honest_qwen2: Path, tmp_path: Path) -> tuple[Path, str, dict[str, Any]]:
    folder = tmp_path / "work"
    folder.mkdir()
    if request.param == "hf":
        path = Path(shutil.copytree(honest_qwen2, folder / "honest"))
    elif request.param == "gguf":
        path = write_gguf(honest_qwen2, folder / "honest.gguf", "qwen2", "F32")
    else:
        path = folder / "honest.apr"
        import_checkpoint(honest_qwen2, path)
    assert accepted(path)
    return path, *WORSE[request.param]


def accepted(path: Path) -> bool:
    examination = examine(path, RoadOptions(run_kind=None))
    examination.close()
    return examination.is_accepted


@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_setting_that_a_gate_would_refuse_is_not_written(
    honest: tuple[Path, str, dict[str, Any]], is_in_place: bool
) -> None:
    path, gate_id, settings = honest
    before = files_below(path.parent)
    where: dict[str, Any] = {"in_place": True} if is_in_place else {"output": path.with_name(f"out{path.suffix}")}
    for dry_run in (True, False):
        with pytest.raises(RefusedError) as caught:
            stamp_file(path, StampChanges(settings=settings), dry_run=dry_run, **where)
        error = caught.value
        assert error.invariant == gate_id
    assert files_below(path.parent) == before


def test_the_refusal_names_the_gate_and_the_way_round_it(honest_qwen2: Path, tmp_path: Path) -> None:
    import_checkpoint(honest_qwen2, tmp_path / "honest.apr")
    with pytest.raises(RefusedError) as caught:
        stamp_file(tmp_path / "honest.apr", StampChanges(settings={"rms_norm_eps": -1.0}), in_place=True)
    error = caught.value
    assert error.invariant == "INV-INIT-CONFIG-001"
    assert "accepted as it stands, and would be refused once it is stamped" in error.what
    assert "rms_norm_eps" in str(error.found)
    assert "--force-untrue 'REASON'" in str(error.remedy)
    assert [finding["id"] for finding in error.findings] == ["INV-INIT-CONFIG-001"]


def test_a_reason_lets_it_through_and_stays_in_the_file(honest_qwen2: Path, tmp_path: Path) -> None:
    path = tmp_path / "honest.apr"
    import_checkpoint(honest_qwen2, path)
    changes = StampChanges(settings={"rms_norm_eps": -1.0})
    result = stamp_file(path, changes, in_place=True, force_reason="to see what it does")
    assert [each.status for each in result.findings if each.id == "INV-INIT-CONFIG-001"] == [Status.UNCHECKED]
    assert result.entry["overrides"] == {"INV-INIT-CONFIG-001": "to see what it does"}
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.recorded.history[-1]["overrides"] == result.entry["overrides"]
    assert not accepted(path)
    stamp_file(path, StampChanges(), in_place=True, undo=True)
    assert accepted(path)


@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_reason_lets_a_value_through_that_the_tensors_contradict(
    honest: tuple[Path, str, dict[str, Any]], is_in_place: bool
) -> None:
    path, *_ = honest
    settings = {".apr": {"num_layers": 5}, ".gguf": {"qwen2.feed_forward_length": 128}}
    changes = StampChanges(settings=settings.get(path.suffix, {"vocab_size": 12345}))
    output = None if is_in_place else path.with_name(f"out{path.suffix}")
    with pytest.raises(RefusedError) as caught:
        stamp_file(path, changes, output, in_place=is_in_place)
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"
    assert "--force-untrue" in str(caught.value.remedy)
    result = stamp_file(path, changes, output, in_place=is_in_place, force_reason="the reader needs it")
    (finding,) = [each for each in result.findings if each.id == "INV-STAMP-TRUTH-001"]
    assert finding.status is Status.UNCHECKED
    assert "the reader needs it" in finding.message
    with open_checkpoint(result.output) as checkpoint:
        newest = editor_of(checkpoint.format).history(checkpoint)[-1]
    assert newest["overrides"] == {"INV-STAMP-TRUTH-001": "the reader needs it"}
    assert not accepted(result.output)


def test_a_reason_does_not_make_stamps_that_disagree(honest_qwen2: Path, tmp_path: Path) -> None:
    import_checkpoint(honest_qwen2, tmp_path / "honest.apr")
    changes = StampChanges(hf_model_type="llama")
    with pytest.raises(RefusedError) as caught:
        stamp_file(tmp_path / "honest.apr", changes, in_place=True, force_reason="a test")
    assert caught.value.invariant == "INV-STAMP-AGREE-001"


def test_a_pinned_fact_is_declared_by_the_stamp_that_changes_it(honest_qwen2: Path, tmp_path: Path) -> None:
    path = tmp_path / "honest.apr"
    import_checkpoint(honest_qwen2, path)
    stamp_file(path, StampChanges(settings={"rope_theta": 500000.0}), in_place=True)
    assert accepted(path)


@pytest.mark.parametrize("changes", [StampChanges(license="MIT"), StampChanges(settings={"description": "a test"})])
def test_what_no_gate_minds_is_written(honest: tuple[Path, str, dict[str, Any]], changes: StampChanges) -> None:
    path, *_ = honest
    if path.suffix == ".gguf" and changes.settings:
        changes = StampChanges(settings={"general.description": "a test"})
    stamp_file(path, changes, in_place=True)
    assert accepted(path)


def test_a_checkpoint_that_is_refused_already_may_be_stamped(honest_qwen2: Path, tmp_path: Path) -> None:
    path = tmp_path / "drifted.apr"
    import_checkpoint(honest_qwen2, path)
    stamp_file(path, StampChanges(settings={"rms_norm_eps": -1.0}), in_place=True, force_reason="a test")
    assert not accepted(path)
    stamp_file(path, StampChanges(license="MIT", settings={"rope_theta": 20000.0}), in_place=True)
    assert not accepted(path)


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
@pytest.mark.parametrize("what", ["stamps", "config", "dimensions", "records"])
def test_a_reopened_file_that_says_anything_else_is_taken_back(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    lie = make_lie("apr")
    before = files_below(lie.path.parent)

    def defective(path: Path) -> Checkpoint:
        checkpoint = open_checkpoint(path)
        other = {
            "stamps": {"stamps": checkpoint.stamps[1:]},
            "config": {"config": MappingProxyType({**(checkpoint.config or {}), "rms_norm_eps": 1.0})},
            "dimensions": {"typed": MappingProxyType({**checkpoint.typed, "hidden_size": 1})},
            "records": {"recorded": checkpoint.recorded._replace(probe=None)},
        }
        return replace(checkpoint, **other[what])  # type: ignore[arg-type]

    monkeypatch.setattr(in_place, "open_checkpoint", defective)
    with pytest.raises(RefusedError, match=f"the {what} of the stamped file: not as planned") as caught:
        stamp_file(lie.path, QWEN2, in_place=True)
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"
    assert "the file is as it was" in str(caught.value.remedy)
    assert files_below(lie.path.parent) == before


def test_the_answer_of_the_command_names_the_gate(apr: Callable[..., Any], honest_qwen2: Path, tmp_path: Path) -> None:
    import_checkpoint(honest_qwen2, tmp_path / "honest.apr")
    answer = apr("stamp", tmp_path / "honest.apr", "--set", "rms_norm_eps=-1.0", "--in-place", "--json")
    assert answer.exit_code == 5
    assert json.loads(answer.stdout)["error"]["invariant"] == "INV-INIT-CONFIG-001"
