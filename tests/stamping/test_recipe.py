"""The commands of the stamping recipe run as printed, with the exit codes it names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from apr.cli.main import run
from tests.quality.founding import write_founding_file

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "stamp.md"


def commands() -> list[tuple[list[str], int]]:
    """Arguments and expected exit code of each `$ apr ...` line, in order."""
    found = []
    for line in re.findall(r"^\$ apr (.*)$", RECIPE.read_text(), re.M):
        command, _, comment = line.partition("  #")
        found.append((shlex.split(command), int(comment.split()[1]) if comment else 0))
    return found


def test_the_recipe_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_founding_file(Path("model.apr"))
    Path("tokenizer").mkdir()
    Path("tokenizer/vocab.json").write_text(json.dumps({f"t{number}": number for number in range(90)}))
    Path("tokenizer/merges.txt").write_text("#version: 0.2\n")
    lines = commands()
    assert len(lines) >= 8
    for arguments, exit_code in lines:
        assert run(arguments) == exit_code, (arguments, capsys.readouterr().err)
    assert not Path("lie.apr").exists()
    assert not list(tmp_path.glob(".apr-*"))
