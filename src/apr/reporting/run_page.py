"""The report of runs: curves of all of them together, then of each what it was, what was checked, what it left."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apr.gates.finding import Status
from apr.reporting.charts import Chart, run_charts, run_label
from apr.reporting.html import Content, Markup, element, figure, folded, join, pairs, section, table
from apr.reporting.page import page
from apr.reporting.runs import Run, number

STATUS_CLASSES = {"TARGET_MET": "good", "BUDGET_EXHAUSTED": "open", "EARLY_STOP": "open", "ABORTED": "bad"}
FINDING_MARKS = {
    Status.PASS: ("passed", "good"),
    Status.REFUSE: ("refused", "bad"),
    Status.UNCHECKED: ("unchecked", "open"),
}
CAPTIONS = {
    "loss": "Mean next-token cross-entropy. Training: each update's own batch, before the update. Validation: the same "
    "hashed windows every time, step 0 before any update.",
}


def runs_page(runs: Sequence[Run], draw: Callable[[Chart], str], *, smooth_steps: int | None = None) -> str:
    """The report of `runs` as one HTML document; `draw` makes an SVG element of a chart."""
    charts = run_charts(runs, smooth_steps=smooth_steps)
    names = ", ".join(run_label(run, runs) for run in runs)
    title = names if len(runs) <= 3 else f"{len(runs)} runs"
    return page(
        title,
        _lead(runs),
        section("Curves", *chart_figures(charts, draw)),
        *(section(run_label(run, runs), *run_sections(run)) for run in runs),
    )


def chart_figures(charts: Sequence[Chart], draw: Callable[[Chart], str]) -> tuple[Markup, ...]:
    """The charts as figures: wide ones in a row of their own, compact ones side by side."""
    wide = [figure(chart.title, draw(chart), CAPTIONS.get(chart.key)) for chart in charts if not chart.is_compact]
    compact = [figure(chart.title, draw(chart)) for chart in charts if chart.is_compact]
    return (*wide, *([element("div", *compact, class_="panels")] if compact else []))


def run_sections(run: Run) -> tuple[Markup, ...]:
    """Everything about one run, without its curves."""
    parts = [_outcome(run), _facts(run)]
    parts += [element("p", notice, class_="note") for notice in (*run.notices, *run.problems)]
    parts += [_findings(run), _receipt(run), _checkpoints(run), _options(run)]
    return tuple(part for part in parts if part)


def _lead(runs: Sequence[Run]) -> str:
    best = [
        f"{run_label(run, runs)} {min(losses):.4f}"
        for run in runs
        if (losses := [point.val_loss for point in run.evaluations if math.isfinite(point.val_loss)])
    ]
    return f"Lowest validation loss: {'; '.join(best)}." if best else "No validation loss was measured."


def _outcome(run: Run) -> Markup:
    word = run.status_word
    detail = None if run.status is None else run.status.get("detail")
    mark = element("span", word, class_=f"mark {STATUS_CLASSES.get(word, 'open')}")
    return element("p", mark, " ", element("span", str(detail)) if detail else Markup(""))


def _facts(run: Run) -> Markup:
    identity, data, device = run.part("identity"), run.part("data"), run.part("device")
    parent = run.part("parent")
    step0 = next((point for point in run.evaluations if point.epoch is None), None)
    last = next((point for point in reversed(run.evaluations) if point.epoch is not None), None)
    return pairs(
        [
            ("model", identity.get("hf_architecture")),
            ("started from", parent.get("path") or "random weights"),
            ("loss at step 0", None if step0 is None else f"{step0.val_loss:.6f}"),
            ("last validation loss", None if last is None else f"{last.val_loss:.6f} at step {last.step}"),
            ("steps", f"{len(run.steps):,}"),
            ("time in steps", _duration(math.fsum(run.steps["wall_ms"]) / 1000) if len(run.steps) else None),
            ("device, dtype", f"{device.get('hardware')} ({device.get('name')}), {run.document.get('dtype')}"),
            ("data", f"{_count(data.get('training_windows'))} training windows, {data.get('validation_origin')}"),
            ("weights at the start", _code(run.document.get("initial_weights_digest"))),
            ("validation set", _code(data.get("validation_set_hash"))),
            ("tokenizer", _code(run.document.get("tokenizer_hash"))),
            ("versions", ", ".join(f"{name} {version}" for name, version in run.part("versions").items()) or None),
        ]
    )


def _findings(run: Run) -> Markup:
    findings = [each for each in run.document.get("findings") or [] if isinstance(each, Mapping)]
    if not findings:
        return Markup("")
    rows = [_finding_row(finding) for finding in findings]
    passed = sum(finding.get("status") == Status.PASS for finding in findings)
    heading = element("h3", f"Gates before step 1: {passed} of {len(findings)} passed")
    return join((heading, table(["gate", "", "what it says"], rows)))


def _finding_row(finding: Mapping[str, Any]) -> list[Content]:
    try:
        word, css_class = FINDING_MARKS[Status(str(finding.get("status")))]
    except ValueError:
        word, css_class = str(finding.get("status")), "open"
    said: list[Content] = [str(finding.get("message"))]
    if finding.get("status") != Status.PASS:
        for label in ("expected", "found", "remedy"):
            if finding.get(label) is not None:
                said.append(element("div", element("span", f"{label}: {finding[label]}"), class_="note"))
    return [
        element("code", str(finding.get("id"))),
        element("span", word, class_=f"mark {css_class}"),
        join(said),
    ]


def _receipt(run: Run) -> Markup:
    receipt = run.part("parent").get("receipt")
    if not isinstance(receipt, Mapping):
        return Markup("")
    digests = receipt.get("tensor_digests")
    digests = digests if isinstance(digests, Mapping) else {}
    facts = pairs(
        [
            ("source", receipt.get("source")),
            ("bytes read", _count(receipt.get("bytes_read"))),
            ("tensors written", _count(receipt.get("tensors_written"))),
            ("weights digest", _code(receipt.get("weights_digest"))),
        ]
    )
    rows = [[element("code", name), element("code", str(digest))] for name, digest in digests.items()]
    all_digests = folded(f"{len(rows):,} tensors read back from the model", table(["tensor", "blake3"], rows))
    return join((element("h3", "Receipt"), facts, all_digests if rows else Markup("")))


def _checkpoints(run: Run) -> Markup:
    if not run.checkpoints:
        return Markup("")
    rows = [
        [
            str(each.get("epoch")),
            _count(each.get("step")),
            _loss(each.get("train_loss")),
            _loss(each.get("val_loss")),
            _loss(each.get("grad_norm_max")),
            _duration(number(each.get("wall_seconds"))),
            _code(each.get("weights_digest")),
        ]
        for each in run.checkpoints
    ]
    columns = ["epoch", "step", "training loss", "validation loss", "largest norm", "time", "weights digest"]
    return join((element("h3", "Checkpoints"), table(columns, rows, right=columns[:6])))


def _options(run: Run) -> Markup:
    rows: list[tuple[str, Content]] = []
    for part in ("options", "settings", "optimizer", "config"):
        rows += [(f"{part}: {key}", _plain(value)) for key, value in run.part(part).items()]
    if not rows:
        return Markup("")
    cells = [[element("code", label), element("code", value)] for label, value in rows]
    return folded("Every option and the whole config of the model", table(["option", "value"], cells))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(value: object) -> Content:
    return None if value is None else element("code", str(value))


def _loss(value: object) -> str:
    return "not measured" if value is None else f"{number(value):.4f}"


def _count(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _duration(seconds: float) -> str | None:
    if math.isnan(seconds):
        return None
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
