"""Progress: silent when short, a line per interval in a log, a bar on a terminal, never a raw name."""

from __future__ import annotations

import io
import sys

import pytest

from apr.cli import progress
from apr.cli.out import Mode, Out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Out().progress("reading", 10, "tensors") as shown:
        for _ in range(10):
            shown.advance()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("mode", Mode)
def test_a_log_gets_a_line_per_interval_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Out(mode).progress("reading", 4, "tensors") as shown:
        shown.advance(1, "a\x1b[31m")
        shown.advance(3)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("reading: 25 % of 4 tensors, about ")
    assert lines[0].endswith(r"a\x1b[31m")
    assert lines[1].startswith("reading: 100 % of 4 tensors, about 0 s left")


def test_an_unknown_total_counts_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Out().progress("reading", None, "documents") as shown:
        shown.advance(1234)
    assert capsys.readouterr().err == "reading: 1,234 documents\n"


def test_a_terminal_gets_a_bar_that_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Out().progress("reading", 4, "tensors") as shown:
        shown.advance(2, "layer [bold]3")
    drawn = terminal.getvalue()
    assert "reading" in drawn
    assert "50 %" in drawn
    assert "layer [bold]3" in drawn


def test_a_terminal_and_short_work_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Out().progress("reading", 4, "tensors") as shown:
        shown.advance(4)
    assert terminal.getvalue() == ""
