"""`apr report`: exit codes, the JSON answer, and nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apr.cli.main import run
from tests.reporting.conftest import MakeRun


def test_report_writes_page_and_pictures(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, pictures = tmp_path / "report.html", tmp_path / "pictures"
    arguments = ["report", make_run("one"), make_run("two"), "-o", output, "--png", pictures, "--smooth", "3", "--json"]
    assert run([str(argument) for argument in arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "apr.report/1"
    assert [row["name"] for row in answer["runs"]] == ["one", "two"]
    assert sorted(path.name for path in pictures.iterdir()) == sorted(Path(each).name for each in answer["pictures"])
    assert output.read_text().startswith("<!doctype html>")


def test_report_says_what_was_cut_off(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(is_finished=False)
    with (path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind"')
    assert run(["report", str(path), "-o", str(tmp_path / "report.html")]) == 0
    assert "was cut off" in capsys.readouterr().err


def test_report_on_what_is_no_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 3
    assert "the directory holds no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_report_without_matplotlib_names_the_extra(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["report", str(make_run()), "-o", str(tmp_path / "report.html")]) == 2
    assert "pip install 'apr[report]'" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
