"""Fleets with something odd among them: names, links and contents that nobody foresaw end their own stamp, no other."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.errors import ExitCode, UsageError
from apr.stamping.fleet import Status, find_checkpoints, is_folder_of_checkpoints, stamp_fleet
from tests.stamping.conftest import files_below

AUTO = ("--auto", "--hf-model-type", "qwen2", "--in-place")


@pytest.fixture
def folder(lies: dict[str, Path], tmp_path: Path) -> Path:
    made = tmp_path / "fleet"
    made.mkdir()
    for number in range(2):
        shutil.copy(lies["apr-typed-only"], made / f"{number}.apr")
    return made


def stamped(answer: Any) -> dict[str, dict[str, Any]]:
    """Lines of the answer by the name of the checkpoint."""
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    return {Path(line["path"]).name: line for line in lines if "path" in line}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_checkpoint_that_nobody_foresaw_does_not_end_the_others(
    apr: Callable[..., Any], folder: Path, honest_qwen2: Path, jobs: str
) -> None:
    odd = Path(shutil.copytree(honest_qwen2, folder / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "llama", "x": "\ud800"}))
    (folder / "loop.apr").symlink_to("loop.apr")
    (folder / "there.apr").symlink_to("back.apr")
    (folder / "back.apr").symlink_to("there.apr")
    (folder / "zero.apr").write_bytes(b"")
    answer = apr("stamp", folder, *AUTO, "--jobs", jobs, "--json")
    assert answer.exit_code == ExitCode.REFUSED
    lines = stamped(answer)
    assert {name for name, line in lines.items() if line["status"] == "stamped"} == {"0.apr", "1.apr", "odd"}
    failed = {name: line["error"]["exit_code"] for name, line in lines.items() if line["status"] == "failed"}
    assert {"loop.apr", "zero.apr"} <= set(failed)
    assert set(failed.values()) <= {ExitCode.NOT_FOUND, ExitCode.DAMAGED, ExitCode.INPUT_OUTPUT}


def test_a_defect_of_ours_is_told_of_one_checkpoint_alone(folder: Path) -> None:
    def fail(path: Path) -> Any:
        raise RuntimeError(f"a defect\nof ours, {path.name}")

    for count in (1, 2):
        outcomes = list(stamp_fleet(sorted(folder.iterdir()), fail, lambda result: {}, count))
        assert [outcome.status for outcome in outcomes] == [Status.FAILED] * 2
        answer = next(each.answer for each in outcomes if each.path.endswith("0.apr"))
        assert answer["message"] == "unexpected RuntimeError: a defect of ours, 0.apr"
        assert answer["exit_code"] == ExitCode.UNEXPECTED
        assert "APR_DEBUG=1" in answer["remedy"]


def test_one_link_to_itself_is_an_error_with_a_place(apr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "loop.apr").symlink_to("loop.apr")
    for arguments in ((), ("--dry-run",)):
        answer = apr("stamp", tmp_path / "loop.apr", "--license", "MIT", "--in-place", *arguments, "--json")
        error = json.loads(answer.stdout)["error"]
        assert error["exit_code"] in (ExitCode.NOT_FOUND, ExitCode.DAMAGED, ExitCode.INPUT_OUTPUT)
        assert str(tmp_path / "loop.apr") in error["where"]


@pytest.mark.timeout(20)
def test_links_that_lead_back_are_searched_once(folder: Path) -> None:
    for name in ("a", "b", "z"):
        (folder / name).symlink_to(".")
    (folder / "below").mkdir()
    (folder / "below" / "up").symlink_to("..")
    (folder / "0.apr").rename(folder / "below" / "0.apr")
    assert {path.name for path in find_checkpoints([str(folder)])} == {"0.apr", "1.apr"}
    assert is_folder_of_checkpoints(folder)
    (folder / "1.apr").unlink()
    (folder / "below" / "0.apr").unlink()
    assert not is_folder_of_checkpoints(folder)


def test_a_folder_and_one_in_it_may_both_be_named(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "0.apr").rename(folder / "below" / "0.apr")
    assert len(find_checkpoints([str(folder), str(folder / "below"), str(folder)])) == 2


def test_a_folder_deeper_than_python_recurses_is_searched(tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    folder = tmp_path.joinpath(*["d"] * 300)
    folder.mkdir(parents=True)
    (folder / "x.apr").write_bytes(b"")
    sys.setrecursionlimit(300)
    try:
        found = find_checkpoints([str(tmp_path)])
    finally:
        sys.setrecursionlimit(limit)
    assert found == [folder / "x.apr"]


@pytest.mark.parametrize("names", [("",), ("", "0.apr"), ("0.apr", "")])
def test_an_empty_name_is_a_usage_error_and_not_the_current_directory(
    apr: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    before = files_below(folder)
    for stamps in (("--license", "MIT", "--in-place"), ("--undo", "--in-place"), ("--license", "MIT", "-o", "out")):
        assert apr("stamp", *names, *stamps).exit_code == ExitCode.USAGE
    assert files_below(folder) == before
    with pytest.raises(UsageError, match="empty"):
        find_checkpoints(names)


@pytest.mark.parametrize(
    "command", ["preflight", "inspect", "lint", "validate", "tensors", "lineage", "sign", "verify", "import", "export"]
)
def test_no_command_takes_an_empty_name_for_the_current_directory(
    apr: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(folder)
    assert apr(command, "").exit_code == ExitCode.USAGE


def list_on_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_lists_with_other_line_endings_and_other_names_are_read(
    apr: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(folder) + b"/\xff.apr"
    shutil.copy(folder / "0.apr", os.fsdecode(odd))
    names = [os.fsencode(folder / "0.apr"), os.fsencode(folder / "1.apr"), odd]
    for ending in (b"\r\n", b"\n"):
        list_on_stdin(monkeypatch, ending.join([*names, b"", b""]))
        answer = apr("stamp", "-", *AUTO, "--dry-run", "--json")
        assert answer.exit_code == 0
        assert json.loads(answer.stdout.splitlines()[-1])["checkpoints"] == 3
        list_on_stdin(monkeypatch, ending.join([*names, b"", b""]))
        assert apr("stamp", "-", *AUTO, "--dry-run").exit_code == 0


def test_a_name_that_ends_in_a_carriage_return_is_itself(
    apr: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "0.apr").rename(folder / "0.apr\r")
    list_on_stdin(monkeypatch, os.fsencode(folder) + b"/0.apr\r\n")
    assert apr("stamp", "-", *AUTO).exit_code == 0


@pytest.mark.parametrize("data", [b"", b"\n \n\r\n", b"a.apr\0b.apr\0"])
def test_a_list_without_paths_is_a_usage_error(
    apr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    list_on_stdin(monkeypatch, data)
    assert apr("stamp", "-", *AUTO).exit_code == ExitCode.USAGE


def test_a_closed_stdin_is_a_usage_error() -> None:
    program = "import sys; from apr.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "stamp", "-", "--license", "MIT", "--in-place"]
    shell = ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command]
    result = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert result.returncode == ExitCode.USAGE
    assert "no paths came on stdin" in result.stderr


def test_what_is_wrong_with_every_checkpoint_is_said_once(apr: Callable[..., Any], folder: Path) -> None:
    for option, value, code in (
        ("--reason", "\udcff", ExitCode.USAGE),
        ("--data-source", "\udcff", ExitCode.USAGE),
        ("--license", "unknown", ExitCode.REFUSED),
    ):
        answer = apr("stamp", folder, *AUTO, option, value, "--json")
        assert answer.exit_code == code
        assert json.loads(answer.stdout)["error"]["exit_code"] == code
