"""Draw the README's pictures from a real run: refusal.svg, repair.svg and loss.svg in docs/pictures.

    python tools/build_readme_pictures.py [DEMO]

DEMO is the directory of a finished `apr demo`; without it a small demo is run first. The commands run in a copy of its
files; what they print is drawn as it is, wrapped to the width of the picture.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from apr.demo.demo_page import demo_chart
from apr.demo.story import RESUMED_RUN, TRAINED_RUN
from apr.reporting.drawing import chart_picture
from apr.reporting.runs import read_run
from apr.reporting.terminal import text_column

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 118
LARGEST_PICTURE_BYTES = 100_000
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
# A progress line of a terminal-less run; on a terminal a bar stands there and goes away.
PROGRESS = re.compile(r"^training: \d+ % of ")

# rich's own frame without its fonts from the net: a picture in a README may load nothing.
FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: FONT; font-size: {char_height}px; line-height: {line_height}px;
  font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
""".replace("FONT", FONT)


def main() -> int:
    with finished_demo(sys.argv[1:]) as demo, tempfile.TemporaryDirectory() as scratch:
        summary = json.loads((demo / "summary.json").read_text(encoding="utf-8"))
        directory = Path(scratch)
        for name in ("tokens", "tokenizer"):
            shutil.copytree(demo / name, directory / name)
        shutil.copy(demo / "mislabelled.apr", directory)
        refused = shlex.split(summary["refusal"]["command"])
        stamp = shlex.split(summary["stamp"]["command"])
        repaired = stamp[stamp.index("-o") + 1]
        resumed = [repaired if word == "mislabelled.apr" else word for word in refused]
        PICTURES.mkdir(parents=True, exist_ok=True)
        save(
            "loss", chart_picture(demo_chart(summary, *(read_run(demo / name) for name in (TRAINED_RUN, RESUMED_RUN))))
        )
        draw("refusal", "apr pretrain --init, on a checkpoint whose label is false", [(refused, 5)], directory)
        draw("repair", "the line it printed, and the run that was meant", [(stamp, 0), (resumed, 0)], directory)
    return 0


@contextmanager
def finished_demo(arguments: Sequence[str]) -> Iterator[Path]:
    """The directory of the demo that was named, or of a small one that is run now and removed afterwards."""
    if arguments:
        yield Path(arguments[0])
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "demo"
        subprocess.run([sys.executable, "-m", "apr.cli.main", "demo", "--small", "--dir", str(directory)], check=True)
        yield directory


def draw(name: str, title: str, commands: Sequence[tuple[Sequence[str], int]], directory: Path) -> None:
    """Run `commands` in `directory`, each with the exit code it must have, and draw what they print as one terminal."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), color_system="truecolor")  # noqa: SIM115
    for index, (command, exit_code) in enumerate(commands):
        if index:
            console.print()
        show(console, Text.assemble(("$ ", "green"), (shlex.join(command), "bold")))
        for line in run(command[1:], directory, exit_code):
            if not PROGRESS.match(line):
                show(console, Text.from_ansi(line))
    save(name, console.export_svg(title=title, code_format=FRAME, unique_id=name))


def save(name: str, picture: str) -> None:
    """Write a picture, unless it is too large for a README."""
    path, size_bytes = PICTURES / f"{name}.svg", len(picture.encode())
    if size_bytes > LARGEST_PICTURE_BYTES:
        raise SystemExit(f"{path} would have {size_bytes:,} bytes, more than {LARGEST_PICTURE_BYTES:,}")
    path.write_text(picture, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {size_bytes:,} bytes")


def run(arguments: Sequence[str], directory: Path, exit_code: int) -> list[str]:
    """The lines that `apr ARGUMENTS` prints in `directory`, answer and messages in order, with their colors."""
    environment = {**os.environ, "FORCE_COLOR": "1"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "apr.cli.main", *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != exit_code:
        raise SystemExit(f"apr {shlex.join(arguments)} ended with {done.returncode}, not {exit_code}:\n{done.stdout}")
    return [*done.stdout.splitlines(), f"\x1b[2m[exit code {done.returncode}]\x1b[0m"]


def show(console: Console, line: Text) -> None:
    """Print `line`, its further rows indented as far as its text begins."""
    indent = text_column(line.plain)
    rows = line.wrap(console, COLUMNS)
    if len(rows) > 1:
        first = rows[0]
        rest = line[len(first.plain) :]
        rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
        rows = [first, *(Text(" " * indent) + row for row in rest.wrap(console, COLUMNS - indent))]
    for row in rows:
        row.rstrip()
        console.print(row, overflow="ignore", no_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
