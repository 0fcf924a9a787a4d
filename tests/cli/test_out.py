"""The one place that prints: what each verb shows in each mode, and that nothing from a file reaches a terminal raw."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from apr.cli.finding_text import finding_lines
from apr.cli.out import Mode, Out, human_bytes, human_duration, plain_json
from apr.errors import DamagedFileError, RefusedError, in_lines
from apr.gates.finding import Finding, Status

REFUSAL = Finding(
    "INV-X-001", Status.REFUSE, "the stamp lies", "llama", "qwen2", in_lines("apr stamp a.apr", "  -o b.apr")
)


def test_json_mode_shows_the_document_and_nothing_else_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(Mode.JSON)
    out.text("hello")
    out.pairs([("a", 1)])
    out.table(["a"], [[1]])
    out.findings([REFUSAL])
    out.warning("careful")
    out.document("apr.test/1", {"loss": math.nan, "path": Path("x")})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"schema": "apr.test/1", "loss": "NaN", "path": "x"}
    assert printed.err == "warning: careful\n"


def test_human_mode_shows_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out()
    out.document("apr.test/1", {"a": 1})
    out.pairs([("name", "qwen2"), ("is tied", True), ("rope", None)])
    assert capsys.readouterr().out == "  name     qwen2\n  is tied  yes\n  rope     -\n"


def test_table_aligns_and_fits_its_longest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    Out().table(["name", "bytes"], [["a", 5], ["longer", 1234]], right=["bytes"])
    assert capsys.readouterr().out == "name    bytes\na           5\nlonger   1234\n"


def test_a_table_without_rows_shows_its_titles(capsys: pytest.CaptureFixture[str]) -> None:
    Out().table(["name", "bytes"], [])
    assert capsys.readouterr().out == "name  bytes\n"


@pytest.mark.parametrize("show", [Out.text, Out.note, Out.warning, Out.hint])
def test_control_and_bidirectional_characters_are_escaped(
    show: Callable[[Out, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(Out(), "a\x1b[31mb\u202ec\x07")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert r"a\x1b[31mb\u202ec\x07" in printed.out + printed.err


def test_names_in_cells_labels_findings_and_json_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "x\x1b]0;title\x07\u202e"
    out = Out()
    out.pairs([(evil, evil)])
    out.table([evil], [[evil]])
    out.findings([Finding("INV-X-001", Status.REFUSE, evil, evil, evil, evil)])
    out.error(DamagedFileError(evil, where=evil, found=evil))
    Out(Mode.JSON).document("apr.test/1", {evil: evil})
    printed = capsys.readouterr()
    for character in ("\x1b", "\x07", "\u202e"):
        assert character not in printed.out + printed.err


def test_a_refusing_finding_shows_both_sides_and_every_line_of_the_remedy() -> None:
    assert list(finding_lines([REFUSAL])) == [
        "\x1b[31m\x1b[1mREFUSED  \x1b[0m INV-X-001  the stamp lies",
        "          expected:  llama",
        "          found:     qwen2",
        "          next:      apr stamp a.apr\n                       -o b.apr",
    ]


def test_a_terminal_wraps_words_but_never_a_command() -> None:
    command = "apr stamp " + "x" * 80 + " -o out.apr --architecture qwen2"
    message = " ".join(["word"] * 40)
    finding = Finding("INV-X-001", Status.REFUSE, message, message, None, command)
    lines = "\n".join(finding_lines([finding], 80)).splitlines()
    assert [line for line in lines if "next:" in line] == [f"          next:      {command}"]
    wrapped = [click.unstyle(line) for line in lines if "next:" not in line]
    assert len(wrapped) > 4
    assert all(len(line) <= 80 for line in wrapped)
    assert all(line.startswith(" " * 10) for line in wrapped[1:])


def test_a_passing_finding_is_one_line() -> None:
    lines = list(finding_lines([Finding("INV-X-001", Status.PASS, "all agree", "a", "a")]))
    assert len(lines) == 1
    assert "ok" in lines[0]


def test_an_error_is_text_on_stderr_or_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    refused = RefusedError("the checkpoint was refused", findings=(REFUSAL.to_json(),))
    Out().error(refused)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: the checkpoint was refused\nREFUSED   INV-X-001  the stamp lies")
    Out(Mode.JSON).error(refused)
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "apr.error/1"
    assert document["error"]["exit_code"] == 5
    assert document["error"]["findings"] == [REFUSAL.to_json()]


def test_an_error_after_the_answer_never_writes_a_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(Mode.JSON)
    out.document("apr.test/1", {})
    out.error(DamagedFileError("late trouble"))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"schema": "apr.test/1"}
    assert "late trouble" in printed.err


@pytest.mark.parametrize(
    ("value", "plain"),
    [(math.inf, "Infinity"), (-math.inf, "-Infinity"), ((1, {2.5}), [1, [2.5]]), (Status.PASS, "pass"), (True, True)],
)
def test_plain_json(value: object, plain: object) -> None:
    assert plain_json(value) == plain


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (5 * 2**40, "5.00 TiB"), (2**52, "4096.00 TiB")],
)
def test_human_bytes(size_bytes: int, shown: str) -> None:
    assert human_bytes(size_bytes) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.25, "250 ms"), (59.94, "59.9 s"), (185, "3 min 05 s")])
def test_human_duration(seconds: float, shown: str) -> None:
    assert human_duration(seconds) == shown
