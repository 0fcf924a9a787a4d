"""`apr stamp X -o OUT` of a dense file of 2.5 GB: wall time, CPU time and bytes written, beside the ways that read it.

    python benchmarks/stamp_copy.py --directory /some/directory [--rounds 3]

Sides, in turn: the copy of the kernel (blocks are shared where the file system can: btrfs, xfs); our own streaming
writer, which reads, writes and reads back (it still does for a file without a footer); `cp`; and read all, write all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common import print_environment
from stamp_inplace import APR, SIZES, make_apr

WHOLE_COPY = "import sys; open(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read())"


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float
    written_bytes: int


def run(command: list[str]) -> Cost:
    """One process to its end, and what the operating system says of it; blocks written are of 512 bytes."""
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    if status:
        raise SystemExit(process.stderr.read().decode())
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_oublock * 512)


def make_dense(folder: Path, size: str) -> tuple[Path, Path]:
    """A file whose zeros are written out, and the same without its footer."""
    sparse, dense, footless = folder / "sparse.apr", folder / "dense.apr", folder / "footless.apr"
    make_apr(sparse, SIZES[size])
    for target in (dense, footless):
        subprocess.run(["cp", "--sparse=never", "--reflink=never", sparse, target], check=True)
    os.truncate(footless, footless.stat().st_size - 4)
    sparse.unlink()
    os.sync()
    return dense, footless


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="2.5 GB", choices=SIZES)
    arguments = parser.parse_args()
    print_environment("click")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        folder = Path(name)
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout
        print(f"file system: {kind.strip()}; load average {os.getloadavg()[0]:.1f}")
        dense, footless = make_dense(folder, arguments.size)
        output = folder / "output.apr"
        identity = ["--architecture", "qwen2", "--hf-architecture", "Qwen2ForCausalLM", "--hf-model-type", "qwen2"]
        sides: dict[str, Callable[[], Cost]] = {
            "apr stamp -o": lambda: run([*APR, "stamp", str(dense), *identity, "-o", str(output)]),
            "streamed and read back": lambda: run([*APR, "stamp", str(footless), *identity, "-o", str(output)]),
            "cp": lambda: run(["cp", str(dense), str(output)]),
            "read all, write all": lambda: run([sys.executable, "-c", WHOLE_COPY, str(dense), str(output)]),
        }
        costs: dict[str, list[Cost]] = {side: [] for side in sides}
        for number in range(arguments.rounds + 1):
            for side, measure in sides.items():
                cost = measure()
                output.unlink()
                if number:
                    costs[side].append(cost)
        for side, each in costs.items():
            wall_s, cpu_s, written = (statistics.median(values) for values in zip(*each, strict=True))
            print(f"{side:<24} {wall_s:6.2f} s wall, {cpu_s:5.2f} s CPU, {written / 1e6:8.1f} MB written")


if __name__ == "__main__":
    main()
