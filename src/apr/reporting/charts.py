"""What a chart shows, apart from how it is drawn; and the charts of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from apr.reporting.runs import Run


class Style(StrEnum):
    """How a line looks. RAW: thin, every measured value. SMOOTH: strong, a mean. POINTS: strong, each value marked."""

    RAW = "raw"
    SMOOTH = "smooth"
    POINTS = "points"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. color: which series color; lines of one run share it. label: None stays out of the key."""

    label: str | None
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: Style
    color: int


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line at `y`, named at its right end. color: None draws it in the color of text."""

    label: str
    y: float
    color: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at `x` with a word at its top: something happened here."""

    label: str
    x: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. key: name of its file as PNG. y_range: None leaves it to the data. is_compact: half as wide."""

    key: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    marks: tuple[Mark, ...] = ()
    y_range: tuple[float, float] | None = None
    is_compact: bool = False


def trailing_mean(values: Sequence[float], count: int) -> tuple[float, ...]:
    """For each value the mean of itself and up to `count` - 1 before it; NaN values are left out of the mean."""
    means = []
    for end in range(1, len(values) + 1):
        window = [value for value in values[max(0, end - count) : end] if not math.isnan(value)]
        means.append(math.fsum(window) / len(window) if window else math.nan)
    return tuple(means)


def run_charts(runs: Sequence[Run], *, smooth_steps: int | None = None) -> tuple[Chart, ...]:
    """Loss, learning rate, gradient norm and throughput over steps, all `runs` in each.

    smooth_steps: adds to the loss of each step, which is always shown as measured, the mean over the last so many.
    """
    charts = [_loss_chart(runs, smooth_steps)]
    for key, title, y_label, column in (
        ("learning-rate", "Learning rate", "read back from the optimizer", "lr"),
        ("gradient-norm", "Gradient norm", "global L2, before clipping", "grad_norm"),
        ("throughput", "Throughput", "target tokens per second", "tokens_per_sec"),
        ("gpu-utilisation", "GPU utilisation", "percent, from the driver", "gpu_util_pct"),
    ):
        lines = [
            Line(run_label(run, runs), _floats(run.steps.step), run.steps[column], Style.SMOOTH, index)
            for index, run in enumerate(runs)
            if any(map(math.isfinite, run.steps[column]))
        ]
        if lines:
            charts.append(Chart(key, title, "step", y_label, tuple(lines), is_compact=True))
    return tuple(charts)


def run_label(run: Run, runs: Sequence[Run]) -> str:
    """The name of `run` among `runs`: its directory's, or the whole path where two share it."""
    return run.name if sum(other.name == run.name for other in runs) == 1 else str(run.path)


def loss_lines(
    run: Run, label: str, color: int, *, smooth_steps: int | None = None, first_step: int = 0
) -> tuple[Line, ...]:
    """Training loss of each step and validation loss of `run`, drawn from `first_step` on."""
    steps = tuple(float(first_step + step) for step in run.steps.step)
    lines = []
    if steps:
        lines.append(Line(f"{label}: training, each step", steps, run.steps["train_loss"], Style.RAW, color))
    if steps and smooth_steps:
        mean = trailing_mean(run.steps["train_loss"], smooth_steps)
        lines.append(Line(f"{label}: training, mean of {smooth_steps} steps", steps, mean, Style.SMOOTH, color))
    if run.evaluations:
        places = tuple(float(first_step + point.step) for point in run.evaluations)
        losses = tuple(point.val_loss for point in run.evaluations)
        lines.append(Line(f"{label}: validation", places, losses, Style.POINTS, color))
    return tuple(lines)


def uniform_loss(run: Run) -> float | None:
    """ln(vocabulary), what a model that knows nothing scores; None when the run does not say how large it is."""
    config = run.part("config")
    nested = config.get("text_config")
    for values in (config, nested if isinstance(nested, dict) else {}):
        rows = values.get("vocab_size")
        if isinstance(rows, int) and not isinstance(rows, bool) and rows > 0:
            return math.log(rows)
    return None


def _loss_chart(runs: Sequence[Run], smooth_steps: int | None) -> Chart:
    lines = [
        line
        for index, run in enumerate(runs)
        for line in loss_lines(run, run_label(run, runs), index, smooth_steps=smooth_steps)
    ]
    uniform = {round(value, 9) for value in map(uniform_loss, runs) if value is not None}
    levels = [Level(f"ln(vocabulary) {value:.2f}", value) for value in sorted(uniform)]
    return Chart("loss", "Loss", "step", "nats per token", tuple(lines), tuple(levels))


def _floats(values: Sequence[int]) -> tuple[float, ...]:
    return tuple(map(float, values))
