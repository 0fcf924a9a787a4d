"""A run directory read back: what the run was, what it measured, what it left, and how it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr.errors import DamagedFileError, InputOutputError, NotFoundError
from apr.training.run_directory import CHECKPOINT_FOLDER, METRICS_FILE, RUN_FILE, STATUS_FILE

LARGEST_DOCUMENT_BYTES = 256 << 20
LARGEST_LINE_BYTES = 1 << 20
STEP_COLUMNS = ("train_loss", "grad_norm", "lr", "tokens_per_sec", "gpu_util_pct", "wall_ms")


@dataclass(frozen=True)
class StepColumns:
    """The updates of a run, one tuple per metric, all as long as `step`; NaN where a value was null or not finite."""

    step: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.columns[name]


@dataclass(frozen=True, slots=True)
class EvaluationPoint:
    """One evaluation on the validation set; epoch None is the one before any update."""

    step: int
    epoch: int | None
    val_loss: float


@dataclass(frozen=True)
class Run:
    """A run as its directory tells it.

    document: `run.json`. status: `status.json`, None while the run goes on or when it was killed. checkpoints: the
    metadata of each epoch, in order. notices: what the run announced on its way. problems: what could not be read,
    in words for people; a run that was killed may have a cut last line.
    """

    path: Path
    document: Mapping[str, Any]
    steps: StepColumns
    evaluations: tuple[EvaluationPoint, ...]
    notices: tuple[str, ...]
    checkpoints: tuple[Mapping[str, Any], ...]
    status: Mapping[str, Any] | None
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.name or str(self.path)

    @property
    def status_word(self) -> str:
        """`TARGET_MET`, `BUDGET_EXHAUSTED`, ..., or `no end recorded`."""
        word = None if self.status is None else self.status.get("status")
        return word if isinstance(word, str) else "no end recorded"

    def part(self, key: str) -> Mapping[str, Any]:
        """The object `key` of `run.json`, empty when it is absent or null."""
        value = self.document.get(key)
        return value if isinstance(value, Mapping) else {}


def read_run(path: Path) -> Run:
    """The run in directory `path`. Raises NotFoundError without a directory or `run.json`, DamagedFileError for a file
    that is not what it should be (a cut last line of the metrics is a problem of the run, not an error)."""
    if not path.is_dir():
        raise NotFoundError("no such run directory", where=str(path), remedy="check the path")
    document = _read_object(path / RUN_FILE)
    if document is None:
        raise NotFoundError(
            "the directory holds no run",
            where=str(path / RUN_FILE),
            expected=f"{RUN_FILE}, as `apr pretrain --run-dir` writes it",
            found="no such file",
            remedy="name the directory that was given as --run-dir",
        )
    entries, problems = _read_metrics(path / METRICS_FILE)
    steps = [entry for entry in entries if entry.get("kind") == "step"]
    evaluations = [entry for entry in entries if entry.get("kind") == "evaluation"]
    checkpoints = [_read_object(each) for each in sorted((path / CHECKPOINT_FOLDER).glob("epoch-*.metadata.json"))]
    return Run(
        path=path,
        document=document,
        steps=_columns(steps),
        evaluations=tuple(
            EvaluationPoint(int(entry["step"]), entry.get("epoch"), number(entry.get("val_loss")))
            for entry in evaluations
        ),
        notices=tuple(str(entry.get("text")) for entry in entries if entry.get("kind") == "notice"),
        checkpoints=tuple(each for each in checkpoints if each is not None),
        status=_read_object(path / STATUS_FILE),
        problems=tuple(problems),
    )


def number(value: object) -> float:
    """`value` of a JSON document as a float; null, text such as `NaN` and anything else that is no number give NaN."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _columns(entries: Sequence[Mapping[str, Any]]) -> StepColumns:
    columns = {name: tuple(number(entry.get(name)) for entry in entries) for name in STEP_COLUMNS}
    return StepColumns(tuple(int(entry["step"]) for entry in entries), columns)


def _read_metrics(path: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    entries: list[Mapping[str, Any]] = []
    problems: list[str] = []
    for line_number, line in _lines(path):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                problems.append(f"the last line of {METRICS_FILE} was cut off, as when a run is killed")
                continue
            raise _damaged(f"{path}: line {line_number}", "a JSON object", str(error)) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            raise _damaged(f"{path}: line {line_number}", "a JSON object with a kind", repr(entry)[:80])
        step = entry.get("step")
        if isinstance(step, bool) or not isinstance(step, int):
            raise _damaged(f"{path}: line {line_number}: step", "an integer", repr(step)[:80])
        entries.append(entry)
    return entries, problems


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            line_number = 0
            while line := file.readline(LARGEST_LINE_BYTES):
                line_number += 1
                yield line_number, line
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputOutputError(f"cannot read the metrics: {error.strerror}", where=str(path)) from error


def _read_object(path: Path) -> Mapping[str, Any] | None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_DOCUMENT_BYTES:
            raise _damaged(str(path), f"at most {LARGEST_DOCUMENT_BYTES} bytes", f"{size_bytes} bytes")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputOutputError(f"cannot read the run: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise _damaged(str(path), "JSON", str(error)) from error
    if not isinstance(document, dict):
        raise _damaged(str(path), "a JSON object", type(document).__name__)
    return document


def _damaged(where: str, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "a file of the run cannot be read",
        where=where,
        expected=expected,
        found=found,
        remedy="report on another run; the checkpoints of this one are separate files and may be intact",
    )
