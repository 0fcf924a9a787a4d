"""A report of runs on disk: one HTML file, and the curves as PNG files where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apr.errors import InputOutputError
from apr.reporting.charts import run_charts
from apr.reporting.drawing import chart_png, chart_svg
from apr.reporting.run_page import runs_page
from apr.reporting.runs import Run, read_run
from apr.storage.atomic import atomic_file


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """What was written: the page, the pictures, and the runs it tells of."""

    path: Path
    pictures: tuple[Path, ...]
    runs: tuple[Run, ...]


def write_report(
    run_directories: Sequence[Path],
    output: Path,
    *,
    picture_directory: Path | None = None,
    smooth_steps: int | None = None,
) -> WrittenReport:
    """Report on `run_directories` in `output`, which is replaced as a whole when it exists.

    picture_directory: also write each curve there as `KEY.png`. smooth_steps: add the mean over so many steps to the
    training loss. Raises NotFoundError and DamagedFileError for a run that cannot be read, MissingExtraError without
    matplotlib, InputOutputError.
    """
    runs = tuple(read_run(directory) for directory in run_directories)
    write_text(output, runs_page(runs, chart_svg, smooth_steps=smooth_steps))
    pictures = []
    if picture_directory is not None:
        _make_directory(picture_directory)
        for chart in run_charts(runs, smooth_steps=smooth_steps):
            path = picture_directory / f"{chart.key}.png"
            with atomic_file(path) as file:
                file.write(chart_png(chart))
            pictures.append(path)
    return WrittenReport(output, tuple(pictures), runs)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputOutputError(f"cannot create the directory: {error.strerror}", where=str(path)) from error
