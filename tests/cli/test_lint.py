"""`apr lint` names what is missing, with the command that adds it, and fails on what is untrue."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from apr.cli.main import run
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.quality.founding import write_founding_file
from tests.tiny_models import save_tiny


def lint(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    capsys.readouterr()
    exit_code = run(["lint", *map(str, arguments), "--json"])
    return exit_code, json.loads(capsys.readouterr().out)


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
def test_a_lie_is_an_error_and_exits_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "founding.apr"
    write_founding_file(path)
    exit_code, document = lint(capsys, path)
    assert exit_code == 5
    assert document["schema"] == "apr.lint/1"
    assert document["error_count"] == 1
    assert document["issues"][0]["category"] == "Identity"
    assert "qwen2" in document["issues"][0]["message"]


def test_every_suggested_stamp_takes_its_issue_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save_tiny(tmp_path / "model", "qwen2")
    exit_code, document = lint(capsys, directory)
    assert exit_code == 0
    stamps = [issue for issue in document["issues"] if issue["category"] == "Metadata"]
    assert len(stamps) == 3
    for issue in stamps:
        words = shlex.split(issue["suggestion"].replace("SPDX", "MIT").replace("TEXT", "'books of one century'"))
        assert run(words[1:]) == 0
    _, after = lint(capsys, directory)
    assert not [issue for issue in after["issues"] if issue["category"] == "Metadata"]
    assert lint(capsys, directory, "--strict")[0] == (5 if after["warn_count"] else 0)


def test_a_placeholder_is_not_a_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save_tiny(tmp_path / "model", "qwen2")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "license": "unknown"}))
    _, document = lint(capsys, directory)
    assert any("'unknown'" in issue["message"] for issue in document["issues"])


def test_what_is_damaged_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save_tiny(tmp_path / "model", "qwen2")
    stamp_file(directory, StampChanges(license="MIT"), in_place=True)
    shutil.copy(directory / "model.safetensors", directory / "model-00001-of-00002.safetensors")
    (directory / "model.safetensors.index.json").write_text("{}")
    exit_code, document = lint(capsys, directory)
    assert exit_code == 5
    assert document["issues"][0]["category"] == "Integrity"
