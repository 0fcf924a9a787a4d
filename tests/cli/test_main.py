"""Every way a command can end: its text, its place (stdout or stderr) and its exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from apr import __version__
from apr.cli import table
from apr.cli.main import cli
from apr.cli.options import json_option
from apr.errors import (
    AprError,
    DamagedFileError,
    GuardStopError,
    InputOutputError,
    InterruptedResumableError,
    MissingExtraError,
    NotFoundError,
    RefusedError,
    UsageError,
)

ENDINGS = [
    (UsageError("u"), 2),
    (MissingExtraError("torch is not installed"), 2),
    (NotFoundError("n"), 3),
    (DamagedFileError("d"), 4),
    (RefusedError("r"), 5),
    (GuardStopError("g"), 6),
    (InputOutputError("i"), 7),
    (InterruptedResumableError("s"), 75),
    (KeyboardInterrupt(), 130),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.apr"), 7),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out.apr"), 7),
    (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "in.apr"), 3),
    (ValueError("a defect of ours"), 1),
    (click.UsageError("bad option"), 2),
    (click.exceptions.Exit(5), 5),
]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `apr end` a command that raises the given exception."""

    def plant(error: BaseException) -> None:
        @click.command("end")
        @json_option
        def command() -> None:
            raise error

        module = type(sys)("apr_test_ending")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "apr_test_ending", module)
        monkeypatch.setitem(cli.rows, "end", table.CommandRow("end", "apr_test_ending", "Test", "Ends."))  # type: ignore[attr-defined]

    return plant


@pytest.mark.parametrize(("error", "code"), ENDINGS, ids=lambda value: type(value).__name__)
def test_exit_code_and_text(apr: Callable, ending: Callable, error: BaseException, code: int) -> None:
    ending(error)
    answer = apr("end")
    assert answer.exit_code == code
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    if not isinstance(error, click.exceptions.Exit):
        assert answer.stderr.startswith("error: ")


ERRORS = [(error, code) for error, code in ENDINGS if not isinstance(error, click.exceptions.Exit)]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_json_mode_answers_every_error_with_one_document(
    apr: Callable, ending: Callable, error: BaseException, code: int
) -> None:
    ending(error)
    answer = apr("end", "--json")
    assert answer.exit_code == code
    assert answer.stderr == ""
    assert answer.document["schema"] == "apr.error/1"
    assert answer.document["error"]["exit_code"] == code


def test_every_error_class_has_its_documented_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()

    def classes(root: type[AprError]) -> set[type[AprError]]:
        return {root}.union(*(classes(child) for child in root.__subclasses__()))

    for each in classes(AprError):
        assert f"| {int(each.exit_code)} |" in text, each


def test_unexpected_errors_advise_debug_and_debug_shows_the_traceback(
    apr: Callable, ending: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(ValueError("a defect\nof ours"))
    assert apr("end").stderr == (
        "error: unexpected ValueError: a defect of ours\n"
        "  next:     run again with APR_DEBUG=1 for the traceback, and report it\n"
    )
    monkeypatch.setenv("APR_DEBUG", "1")
    assert "Traceback" in apr("end").stderr


def test_full_disk_names_the_file_and_the_way_out(apr: Callable, ending: Callable) -> None:
    ending(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.apr"))
    assert apr("end").stderr == (
        "error: the operating system refused: No space left on device\n"
        "  where:    out.apr\n"
        "  next:     make room on the disk, then run again\n"
    )


@pytest.mark.parametrize("arguments", [["nosuch"], ["--nosuch"], ["version", "--nosuch"], []])
def test_usage_errors_exit_2_in_both_modes(apr: Callable, arguments: list[str]) -> None:
    answer = apr(*arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "--help" in answer.stderr
    answer = apr(*arguments, "--json")
    assert answer.exit_code == 2
    assert answer.document["error"]["kind"] == "UsageError"


def test_json_after_two_dashes_is_a_path_not_an_option(apr: Callable) -> None:
    answer = apr("version", "--", "--json")
    assert (answer.exit_code, answer.stdout) == (2, "")


def test_global_and_command_json_are_the_same(apr: Callable) -> None:
    assert apr("--json", "version").document == apr("version", "--json").document


def test_version(apr: Callable) -> None:
    assert apr("--version").stdout == f"apr {__version__}\n"
    assert apr("version", "--json").document["apr"] == __version__


def run_in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """`line` in a shell where `$APR` is the command, as a console script would start it."""
    program = "import sys; from apr.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "APR": f"{sys.executable} -c '{program}'"}
    shell = ["bash", "-o", "pipefail", "-c", f'eval "$APR {line}"']
    return subprocess.run(shell, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("version --json | true", 7, ""),
        ("version > /dev/full", 7, "No space left on device"),
        ("version --json > /dev/full", 7, "No space left on device"),
        ("nosuch --json > /dev/full", 2, ""),
        ("nosuch 2> /dev/full", 2, ""),
        ("version >&-", 0, ""),
        ("version 2>&-", 0, ""),
        ("nosuch >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_cannot_be_written_end_quietly_with_the_right_code(line: str, code: int, told: str) -> None:
    result = run_in_shell(line)
    assert result.returncode == code
    assert told in result.stderr
    assert (result.stderr == "") is (told == "")
    assert "Traceback" not in result.stderr


def test_an_encoding_that_lacks_a_character_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    result = run_in_shell("inspect no–model.apr")
    assert result.returncode == 3
    assert r"no\u2013model.apr" in result.stderr


@pytest.mark.parametrize(
    ("setting", "is_colored"), [({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False), ({}, False)]
)
def test_color_only_where_asked_for(
    apr: Callable, ending: Callable, monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], is_colored: bool
) -> None:
    ending(DamagedFileError("x"))
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in apr("end").stderr) is is_colored


def test_python_m_apr_is_the_command_with_its_exit_code() -> None:
    result = subprocess.run([sys.executable, "-m", "apr", "nosuch"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize("command", ["preflight", "inspect", "import", "validate"])
def test_an_empty_path_is_not_the_current_directory(apr: Callable, command: str) -> None:
    answer = apr(command, "")
    assert answer.exit_code == 2
    assert "the path is empty" in answer.stderr


@pytest.mark.parametrize("words", [("import", "loop", "-o", "x.apr"), ("export", "loop", "-o", "x")])
def test_a_link_to_itself_is_named_and_not_unexpected(
    apr: Callable, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    answer = apr(*words)
    assert answer.exit_code == 7
    assert "symbolic links" in answer.stderr
