"""The whole demo, small: every claim holds, everything measured is written down, and a defect ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apr.cli.main import run
from apr.demo.run import run_demo
from apr.demo.size import SMALL
from apr.demo.summary import table_rows
from apr.errors import RefusedError
from tests.reporting.test_pages import read_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_claim_of_the_demo_holds(demo_directory: Path) -> None:
    summary = json.loads((demo_directory / "summary.json").read_text())
    assert summary["schema"] == "apr.demo/1"
    assert summary["holds"]
    assert len(summary["expectations"]) >= 20
    assert all(each["holds"] for each in summary["expectations"])
    losses = summary["losses"]
    assert losses["resumed_final"] < losses["recorded"] < losses["loaded_as_stamped"] < losses["random"]
    assert losses["resumed_step0_relative_difference"] <= 1e-4
    assert summary["quality"]["before"]["score"] == 40
    assert summary["quality"]["after"]["score"] == 60
    assert summary["refusal"]["exit_code"] == 5
    assert len(summary["loaded_as_stamped"]["unused_tensors"]) == 3 * SMALL.layers
    assert summary["loaded_as_stamped"]["missing_tensors"] == []
    assert summary["peak_memory_bytes"]["own"] < 2 << 30
    assert summary["peak_memory_bytes"]["largest_child_at_most"] < 2 << 30


def test_the_report_shows_what_was_measured(demo_directory: Path) -> None:
    summary = json.loads((demo_directory / "summary.json").read_text())
    page = (demo_directory / "report.html").read_text()
    read_page(page)
    for _, measured, _ in table_rows(summary):
        assert measured in page
    assert "apr stamp mislabelled.apr --architecture qwen2" in page
    assert "INV-INIT-ARCH-MATCH-001" in page


def test_the_command_refuses_a_directory_in_use(demo_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--small", "--dir", str(demo_directory)]) == 5
    assert "add --force" in capsys.readouterr().err
    assert (demo_directory / "report.html").exists()


def test_a_gate_that_lets_the_copy_through_fails_the_whole_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gates are taken out of the processes that the demo starts, by a module that Python imports at its start."""
    (tmp_path / "sitecustomize.py").write_text(
        "import apr.gates.runner as runner\n"
        "spoken = ('INV-INIT-ARCH-MATCH-001', 'INV-INIT-COVERAGE-001', 'INV-INIT-LOSS-001', 'INV-INIT-PROBE-001')\n"
        "runner.run_stage.__defaults__ = (tuple(gate for gate in runner.GATES if gate.id not in spoken),)\n"
    )
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), inherited))))
    directory = tmp_path / "demo"
    with pytest.raises(RefusedError, match=r"does not hold: (pretrain --init refuses|the refusal names)"):
        run_demo(directory, size=SMALL)
    summary = json.loads((directory / "summary.json").read_text())
    assert not summary["holds"]
    assert not (directory / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_says_how_to_start_over_and_leaves_nothing_half_written(
    tmp_path: Path, number: signal.Signals
) -> None:
    directory = tmp_path / "demo"
    program = [sys.executable, "-m", "apr.cli.main", "demo", "--small", "--dir", str(directory)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 0: validation loss" in line:
                break
        process.send_signal(number)
        messages = process.stderr.read()
        assert process.wait(timeout=120) == 130
    assert "the demo was interrupted" in messages
    assert f"apr demo --dir {directory} --force" in messages
    assert "Traceback" not in messages
    assert not json.loads((directory / "summary.json").read_text())["is_complete"]
    assert not (directory / "report.html").exists()
    assert not [path for path in directory.rglob("*") if path.name.startswith(".") and path.name != ".apr-demo"]
