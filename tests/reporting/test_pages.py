"""A report is one sound page that loads nothing, and no text of a run can become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from apr.reporting.drawing import chart_svg
from apr.reporting.html import Markup, element, join, table, terminal, text
from apr.reporting.run_page import runs_page
from apr.reporting.runs import read_run
from apr.reporting.terminal import text_column
from tests.reporting.conftest import HOSTILE, MakeRun

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks that elements close in order, and collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_a_page_is_sound_and_loads_nothing(make_run: MakeRun) -> None:
    runs = [read_run(make_run("first")), read_run(make_run("second", is_finished=False, first_loss=6.0))]
    reader = read_page(runs_page(runs, chart_svg, smooth_steps=3))
    assert {"script", "iframe", "object", "embed", "link", "img"}.isdisjoint(reader.tags)
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "data", "action"):
            assert (value or "").startswith("#"), (name, value)
        assert not name.startswith("on")
    assert reader.tags.count("svg") == 4


def test_text_from_a_run_stays_text(make_run: MakeRun) -> None:
    page = runs_page([read_run(make_run(f"run {HOSTILE[:8]}".replace("/", "")))], chart_svg)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page


def test_what_a_run_measured_stands_on_its_page(make_run: MakeRun) -> None:
    page = runs_page([read_run(make_run())], chart_svg)
    for words in (
        "BUDGET_EXHAUSTED",
        "all steps are done",
        "INV-INIT-COVERAGE-001",
        "72 unused",
        "1 of 3 passed",
        "123,456",
        "blake3:epoch1",
        "5.7500",
        "1 min 01 s",
        "the checkpoint records no probe",
    ):
        assert words in page, words
    assert "prefers-color-scheme:dark" in page


def test_an_unfinished_and_an_empty_run_have_pages_too(make_run: MakeRun) -> None:
    bare = make_run(steps=0, is_finished=False, findings=[], parent=None, config={}, data={}, device={})
    page = runs_page([read_run(bare)], chart_svg)
    read_page(page)
    assert "no end recorded" in page
    assert "random weights" in page


@pytest.mark.parametrize(
    ("value", "expected"),
    [("<b>", "&lt;b&gt;"), (None, "–"), (3, "3"), ("a\x07b", "a\\x07b"), (Markup("<i>x</i>"), "<i>x</i>")],
)
def test_only_markup_passes_unescaped(value: str | int | None, expected: str) -> None:
    assert text(value) == expected
    assert element("p", value, title='"<') == f'<p title="&quot;&lt;">{expected}</p>'
    assert join((value, value)) == expected * 2


def test_columns_of_numbers_are_marked() -> None:
    assert '<td class="number">1</td>' in table(["a", "b"], [["x", "1"]], right=["b"])


def test_the_style_of_the_page_is_shipped() -> None:
    import apr.reporting

    assert (Path(apr.reporting.__file__).parent / "page.css").read_text().count("{") > 30
    assert re.search(r"default-src &#x27;none&#x27;|default-src 'none'", (runs_page([], chart_svg)))


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("plain", 0),
        ("$ apr stamp x", 2),
        ("error: no", 7),
        ("REFUSED   INV-A  message", 10),
        ("          found:     claimed", 21),
        (" " * 40 + "far right", 21),
        ("  where:    file", 12),
    ],
)
def test_a_long_line_goes_on_below_its_text(line: str, column: int) -> None:
    assert text_column(line) == column
    assert f"padding-left:{column}ch" in terminal(line)
