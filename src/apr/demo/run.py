"""The whole demo: tell the story, write down what was measured, and fail unless every claim held."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr.demo.demo_page import demo_page
from apr.demo.place import make_place
from apr.demo.size import FULL, DemoSize
from apr.demo.story import RESUMED_RUN, TRAINED_RUN, Story, tell
from apr.demo.summary import summary_document
from apr.demo.watching import DemoWatcher, SilentWatcher
from apr.errors import InterruptedRunError, shell_word
from apr.loading.zoo import require_zoo
from apr.reporting.drawing import chart_svg
from apr.reporting.report import write_text
from apr.reporting.runs import read_run
from apr.training.run_directory import plain

SUMMARY_NAME, REPORT_NAME = "summary.json", "report.html"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """A demo whose every claim held: its summary, and where the report is."""

    summary: dict[str, Any]
    report: Path


def run_demo(
    directory: Path,
    *,
    seed: int = 42,
    size: DemoSize = FULL,
    force: bool = False,
    watcher: DemoWatcher | None = None,
) -> DemoResult:
    """Run the demo in `directory`, which is made; `force` replaces that of an earlier demo.

    Leaves `summary.json` (schema apr.demo/1) and `report.html`; a demo that fails leaves the summary up to there.
    Raises ExpectationFailedError as soon as a claim does not hold, RefusedError for a directory that is in use,
    MissingExtraError without torch, transformers or matplotlib, InterruptedRunError, and what the acts raise.
    """
    started_s = time.perf_counter()
    require_zoo()
    make_place(directory, force=force)
    story = Story(directory, size, seed, watcher or SilentWatcher())
    try:
        tell(story)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "the demo was interrupted",
            where=str(directory),
            remedy=f"apr demo --dir {shell_word(directory)} --force starts over",
        ) from error
    finally:
        summary = plain(summary_document(story, time.perf_counter() - started_s))
        write_text(directory / SUMMARY_NAME, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    trained, resumed = read_run(directory / TRAINED_RUN), read_run(directory / RESUMED_RUN)
    report = directory / REPORT_NAME
    write_text(report, demo_page(summary, trained, resumed, chart_svg))
    return DemoResult(summary, report)
