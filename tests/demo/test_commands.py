"""The demo runs the real command line, and takes from a refusal exactly the line it printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.demo.commands import printed_command, run_apr
from apr.errors import DamagedFileError


def test_a_command_runs_where_it_is_told_and_keeps_its_exit_code(tmp_path: Path) -> None:
    outcome = run_apr(["inspect", "no such file", "--json"], tmp_path)
    assert outcome.exit_code == 3
    assert outcome.line == "apr inspect 'no such file' --json"
    assert outcome.document()["error"]["exit_code"] == 3


def test_an_answer_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="no JSON answer"):
        run_apr(["version"], tmp_path).document()


def test_the_printed_command_is_taken_as_it_stands() -> None:
    text = "error: ...\n  next:   apr stamp 'a b.apr' --architecture qwen2 -o c.apr\n        apr pretrain --init c.apr"
    assert printed_command(text, "apr stamp ") == ["apr", "stamp", "a b.apr", "--architecture", "qwen2", "-o", "c.apr"]
    assert printed_command(text, "apr export ") is None
