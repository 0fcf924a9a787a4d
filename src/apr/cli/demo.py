"""`apr demo`: the founding story, end to end, on real text, with every number measured here and now."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.cli.watcher import Watcher
from apr.errors import shell_word


@click.command("demo")
@click.option(
    "--dir", "directory", type=PATH, default=Path("demo"), show_default=True, help="New directory for all that is made."
)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Of weights and data order.")
@click.option("-f", "--force", is_flag=True, help="Replace the directory of an earlier demo.")
@click.option("--small", is_flag=True, hidden=True, help="The same story in seconds, for tests.")
@json_option
@click.pass_obj
def command(out: Out, directory: Path, seed: int, force: bool, small: bool) -> None:
    """Train a small Qwen2 on real text, mislabel a copy of it, see it refused, repair it, and train on.

    The text is the standard library of this Python. Takes under five minutes on two cores and under 2 GB of memory.
    The demo fails when anything it claims does not hold. It ends with a table of measured numbers; the curves are in
    DIR/report.html, everything measured is in DIR/summary.json.
    """
    from apr.demo.run import run_demo
    from apr.demo.size import FULL, SMALL
    from apr.demo.summary import SCHEMA, table_rows

    with _terminable(), ExitStack() as stack:
        result = run_demo(
            directory, seed=seed, size=SMALL if small else FULL, force=force, watcher=_Watcher(out, stack)
        )
    out.document(SCHEMA, {key: value for key, value in result.summary.items() if key != "schema"})
    out.table(["what", "measured", ""], table_rows(result.summary), right=["measured"])
    out.text(f"all {len(result.summary['expectations'])} claims hold", bold=True, color="green")
    out.hint(f"open {shell_word(result.report)} in a browser")


class _Watcher(Watcher):
    """Shows the demo as it goes: acts and evaluations as lines, the whole as progress with the time left."""

    def started(self, units: int) -> None:
        self.open("demo", units, "units")

    def advanced(self, units: int, detail: str) -> None:
        self.advance(units, detail)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within the block a request to terminate is met as Ctrl+C is, so that nothing is left half done."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
