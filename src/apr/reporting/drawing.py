"""Charts drawn with matplotlib: as SVG that takes its colors from the page around it, and as PNG on light paper."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr.errors import MissingExtraError
from apr.reporting.charts import Chart, Line, Style
from apr.reporting.palette import COLORS, light, series_name, style_variables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_INCHES, COMPACT_INCHES = (9.2, 4.3), (4.5, 2.7)
PNG_DOTS_PER_INCH = 160
FONT_FAMILY = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif'
LINE_WIDTHS = {Style.RAW: 0.7, Style.SMOOTH: 1.5, Style.POINTS: 1.8}
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "path.simplify_threshold": 0.3,
}


def chart_svg(chart: Chart) -> str:
    """`chart` as an SVG element for a page that defines the variables of `palette.style_variables`.

    Text stays text. The same chart gives the same bytes.
    """
    # Each color is drawn as a number that nothing else uses, then replaced by its variable.
    stand_ins = {name: f"#f1f2{index + 16:02x}" for index, name in enumerate(COLORS)}
    with _settings(chart.key):
        figure = _figure(chart, lambda name: stand_ins[name])
        output = io.StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = output.getvalue()
    text = text[text.index("<svg") :]
    for name, stand_in in stand_ins.items():
        text = text.replace(stand_in, f"var(--{name})")
    return text


def chart_picture(chart: Chart) -> str:
    """`chart` as an SVG file of its own, on paper, in light or dark as the reader prefers."""
    svg = chart_svg(chart)
    end = svg.index(">") + 1
    paper = '<rect width="100%" height="100%" rx="8" fill="var(--panel)"/>'
    return (
        f"{svg[:end]}\n<style>{style_variables()}text{{font-family:{FONT_FAMILY}!important}}</style>{paper}{svg[end:]}"
    )


def chart_png(chart: Chart) -> bytes:
    """`chart` as a PNG on light paper."""
    with _settings(chart.key):
        figure = _figure(chart, light)
        output = io.BytesIO()
        figure.savefig(
            output, format="png", dpi=PNG_DOTS_PER_INCH, facecolor=light("panel"), metadata={"Software": None}
        )
    return output.getvalue()


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("drawing curves needs matplotlib", remedy="pip install 'apr[report]'") from error
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": salt}):
        yield


def _figure(chart: Chart, color: Callable[[str], str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=COMPACT_INCHES if chart.is_compact else WIDE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for line in chart.lines:
        _draw_line(axes, line, color(series_name(line.color)))
    _set_range(axes, chart)
    _dress(axes, chart, color)
    _draw_levels(axes, chart, color)
    for mark in chart.marks:
        axes.axvline(mark.x, color=color("muted"), linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            mark.label,
            (mark.x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5, -6),
            textcoords="offset points",
            ha="right",
            va="top",
            color=color("muted"),
            fontsize=8.5,
        )
    if len([line for line in chart.lines if line.label]) > 1:
        _draw_key(axes, chart, color)
    return figure


def _draw_line(axes: Axes, line: Line, color: str) -> None:
    is_dotted = line.style is Style.POINTS
    axes.plot(
        line.x,
        line.y,
        color=color,
        linewidth=LINE_WIDTHS[line.style],
        alpha=0.6 if line.style is Style.RAW else 1.0,
        marker="o" if is_dotted else None,
        markersize=4.5 if len(line.x) <= 40 else 2.5,
        label=line.label,
        solid_capstyle="round",
        zorder=2 + list(Style).index(line.style),
    )


def _set_range(axes: Axes, chart: Chart) -> None:
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
        return
    shown = [value for line in chart.lines for value in line.y if math.isfinite(value)]
    shown += [level.y for level in chart.levels]
    if shown and not chart.levels and min(shown) >= 0:
        axes.set_ylim(bottom=0, top=max(shown) * 1.06 or 1)
    elif shown:
        margin = 0.07 * (max(shown) - min(shown) or 1)
        axes.set_ylim(min(shown) - margin, max(shown) + margin)


def _dress(axes: Axes, chart: Chart, color: Callable[[str], str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(color("line"))
    axes.tick_params(colors=color("muted"), length=0, labelsize=8.5)
    axes.grid(axis="y", color=color("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.015)
    axes.set_xlabel(chart.x_label, color=color("muted"), fontsize=8.5, loc="right")
    axes.set_ylabel(chart.y_label, color=color("muted"), fontsize=8.5, loc="top")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.get_offset_text().set_color(color("muted"))


def _draw_levels(axes: Axes, chart: Chart, color: Callable[[str], str]) -> None:
    """Levels with their names at the right end, just above the line; names that would touch go below it instead."""
    bottom, top = axes.get_ylim()
    last = math.inf
    for level in sorted(chart.levels, key=lambda each: -each.y):
        ink = color("muted" if level.color is None else series_name(level.color))
        axes.axhline(level.y, color=ink, linewidth=1.0, linestyle=(0, (5, 3)), zorder=2)
        is_close = last - level.y < 0.06 * (top - bottom)
        axes.annotate(
            level.label,
            (1.0, level.y),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if is_close else 3),
            textcoords="offset points",
            ha="right",
            va="top" if is_close else "bottom",
            color=ink,
            fontsize=8.5,
        )
        last = level.y


def _draw_key(axes: Axes, chart: Chart, color: Callable[[str], str]) -> None:
    labelled = sum(line.label is not None for line in chart.lines)
    key = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=1 if chart.is_compact else 2 if labelled == 4 else min(3, labelled),
        frameon=False,
        fontsize=8.5,
        handlelength=1.6,
        borderaxespad=0.3,
        columnspacing=1.6,
    )
    for text in key.get_texts():
        text.set_color(color("ink"))
