"""The files of a run: what it was, what it measured step by step, and how it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from apr.errors import InputOutputError
from apr.storage.atomic import atomic_file

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
STATUS_FILE = "status.json"
CHECKPOINT_FOLDER = "ckpt"


class RunDirectory:
    """`path` with `run.json`, `metrics.jsonl`, `status.json` and `ckpt/`; created by the constructor.

    `run.json` and `status.json` appear whole; `metrics.jsonl` grows by one flushed line per entry. Raises
    InputOutputError when the operating system refuses.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        try:
            (path / CHECKPOINT_FOLDER).mkdir(parents=True, exist_ok=True)
            self._metrics: TextIO = (path / METRICS_FILE).open("x", encoding="utf-8")
        except OSError as error:
            raise InputOutputError(
                f"cannot create the run directory: {error.strerror}", where=str(path), remedy="choose another --run-dir"
            ) from error
        self._write_json(RUN_FILE, run)

    def checkpoint_path(self, epoch: int) -> Path:
        return self.path / CHECKPOINT_FOLDER / f"epoch-{epoch:03d}.apr"

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the metrics; NaN and infinities as strings."""
        try:
            self._metrics.write(json.dumps(plain(entry), allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise InputOutputError(
                f"cannot write the metrics: {error.strerror}",
                where=str(self.path / METRICS_FILE),
                remedy="make room on the disk; the checkpoints of the run are intact",
            ) from error

    def write_metadata(self, epoch: int, metadata: Mapping[str, Any]) -> None:
        """`ckpt/epoch-NNN.metadata.json` beside its checkpoint."""
        self._write_json(f"{CHECKPOINT_FOLDER}/epoch-{epoch:03d}.metadata.json", metadata)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """How the run ended; written once, at its end."""
        self._write_json(STATUS_FILE, status)

    def close(self) -> None:
        try:
            self._metrics.close()
        except OSError as error:
            raise InputOutputError(
                f"cannot write the metrics: {error.strerror}", where=str(self.path / METRICS_FILE)
            ) from error

    def _write_json(self, name: str, document: Mapping[str, Any]) -> None:
        with atomic_file(self.path / name) as file:
            file.write((json.dumps(plain(document), indent=2, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths and other objects as text, NaN and infinities as strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)
