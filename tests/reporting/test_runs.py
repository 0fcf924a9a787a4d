"""A run is read back as it was written, and a damaged one is named by file, line and key."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from apr.errors import DamagedFileError, NotFoundError
from apr.reporting.runs import number, read_run
from tests.reporting.conftest import MakeRun


def test_a_run_is_read_as_training_wrote_it(make_run: MakeRun) -> None:
    run = read_run(make_run(steps=12))
    assert run.steps.step == tuple(range(1, 13))
    assert run.steps["train_loss"][-1] == pytest.approx(5.5)
    assert run.steps["lr"][1] == pytest.approx(5e-4)
    assert all(map(math.isnan, run.steps["gpu_util_pct"]))
    assert [(point.step, point.epoch) for point in run.evaluations] == [(0, None), (6, 0), (12, 1)]
    assert run.status_word == "BUDGET_EXHAUSTED"
    assert [each["epoch"] for each in run.checkpoints] == [0, 1]
    assert not run.problems


def test_a_run_that_was_killed_has_no_status_and_may_have_a_cut_line(make_run: MakeRun) -> None:
    path = make_run(is_finished=False)
    with (path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "step", "step": 13, "train_lo')
    run = read_run(path)
    assert run.status_word == "no end recorded"
    assert run.steps.step[-1] == 12
    assert run.problems == ("the last line of metrics.jsonl was cut off, as when a run is killed",)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken", "a JSON object"),
        ("[1, 2]", "a JSON object with a kind"),
        ('{"kind": "step", "step": "one"}', "an integer"),
        ('{"kind": "step"}', "an integer"),
    ],
)
def test_a_damaged_line_is_named(make_run: MakeRun, line: str, expected: str) -> None:
    path = make_run(steps=2)
    with (path / "metrics.jsonl").open("a") as metrics:
        metrics.write(line + "\n")
    with pytest.raises(DamagedFileError, match="a file of the run cannot be read") as caught:
        read_run(path)
    assert "line 6" in (caught.value.where or "")
    assert caught.value.expected == expected


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such run directory"):
        read_run(tmp_path / "absent")
    with pytest.raises(NotFoundError, match="the directory holds no run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(DamagedFileError, match=r"run\.json.*\n.*a JSON object"):
        read_run(tmp_path)


def test_numbers_that_json_cannot_hold_come_back_as_what_they_were() -> None:
    assert math.isnan(number(None))
    assert math.isnan(number(True))
    assert number("inf") == math.inf
    assert math.isnan(number("nan"))
    assert math.isnan(number("many"))
    assert number(json.loads("3")) == 3.0
