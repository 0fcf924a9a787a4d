"""Charts show what was measured: raw values always, smoothing only beside them."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from apr.reporting.charts import Chart, Level, Line, Mark, Style, run_charts, run_label, trailing_mean
from apr.reporting.drawing import chart_picture, chart_png, chart_svg
from apr.reporting.palette import COLORS
from apr.reporting.runs import read_run
from tests.reporting.conftest import MakeRun

CHART = Chart(
    "loss",
    "Loss",
    "step",
    "nats",
    (
        Line("first", (1.0, 2.0, 3.0), (6.0, math.nan, 4.0), Style.RAW, 0),
        Line("second", (1.0, 2.0, 3.0), (5.0, 4.5, 4.25), Style.POINTS, 1),
    ),
    (Level("ln(600) 6.40", math.log(600)), Level("silent 6.38", 6.38, 1)),
    (Mark("repaired", 2.0),),
)


def test_trailing_mean_leaves_out_what_was_not_measured() -> None:
    assert trailing_mean([1.0, 3.0, math.nan, 5.0], 2) == (1.0, 2.0, 3.0, 5.0)
    assert math.isnan(trailing_mean([math.nan], 3)[0])


def test_smoothing_adds_a_line_and_takes_none_away(make_run: MakeRun) -> None:
    run = read_run(make_run())
    plain, smooth = run_charts([run])[0], run_charts([run], smooth_steps=4)[0]
    assert set(plain.lines) < set(smooth.lines)
    raw = next(line for line in plain.lines if line.style is Style.RAW)
    assert raw.y == run.steps["train_loss"]
    assert plain.levels == (Level("ln(vocabulary) 6.40", round(math.log(600), 9)),)


def test_a_metric_that_nobody_measured_has_no_chart(make_run: MakeRun) -> None:
    keys = [chart.key for chart in run_charts([read_run(make_run())])]
    assert keys == ["loss", "learning-rate", "gradient-norm", "throughput"]


def test_runs_that_share_a_name_are_told_apart_by_path(make_run: MakeRun) -> None:
    runs = [read_run(make_run("a/run")), read_run(make_run("b/run")), read_run(make_run("other"))]
    labels = [run_label(run, runs) for run in runs]
    assert labels == [str(runs[0].path), str(runs[1].path), "other"]


def test_a_run_without_a_step_still_has_its_step_0(make_run: MakeRun) -> None:
    charts = run_charts([read_run(make_run(steps=0))])
    assert [chart.key for chart in charts] == ["loss"]
    assert charts[0].lines[0].x == (0.0,)
    assert chart_svg(charts[0]).startswith("<svg")


def test_an_svg_takes_all_its_colors_from_the_page() -> None:
    svg = chart_svg(CHART)
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "#f1f2" not in svg
    assert "ln(600) 6.40" in svg
    assert "repaired" in svg
    assert svg == chart_svg(CHART)


def test_a_picture_stands_alone_and_loads_nothing() -> None:
    picture = chart_picture(CHART)
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in picture
    assert "url(http" not in picture
    assert "@import" not in picture


def test_a_png_is_a_png() -> None:
    assert chart_png(CHART).startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_can_be_read_on_their_paper(theme: int) -> None:
    """WCAG contrast: 4.5 for words, 3 for lines."""

    def luminance(color: str) -> float:
        parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        dark, bright = sorted((luminance(one), luminance(other)))
        return (bright + 0.05) / (dark + 0.05)

    for name, values in COLORS.items():
        if name in ("paper", "panel", "line"):
            continue
        for paper in ("paper", "panel"):
            assert contrast(values[theme], COLORS[paper][theme]) >= (3.0 if name.startswith("series") else 4.5), name
