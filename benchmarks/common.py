"""What every benchmark prints and how it measures: the machine, the versions, and both sides in turn in one run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


def print_environment(*packages: str) -> None:
    """One line for the machine, one for the versions of Python and `packages`."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    print(f"machine: {os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"versions: Python {platform.python_version()}, {found}")


@dataclass(frozen=True)
class ProcessCost:
    """One finished process: wall seconds and the peak resident set of the process itself, in bytes."""

    wall_s: float
    peak_rss_bytes: int
    exit_code: int
    stdout: str
    stderr: str


def run_process(command: Sequence[str], **environment: str) -> ProcessCost:
    """Run `command` to its end and account for it as the operating system does (`wait4`)."""
    import tempfile

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        scale = 1 if sys.platform == "darwin" else 1024
        return ProcessCost(
            wall_s, usage.ru_maxrss * scale, process.returncode, out.read().decode(), err.read().decode()
        )


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each side once per round, so that a machine that slows down slows all of them; one round first, uncounted."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for round_index in range(rounds + 1):
        for name, measure in sides.items():
            value = measure()
            if round_index:
                figures[name].append(value)
    return figures


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios round by round, ours over theirs."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def summary(values: Sequence[float], unit: str = "s") -> str:
    return f"{statistics.median(values):.3f} {unit} (min {min(values):.3f}, max {max(values):.3f})"


def last_json(text: str) -> dict[str, object]:
    """The JSON document a command answered with."""
    found: dict[str, object] = json.loads(text)
    return found
