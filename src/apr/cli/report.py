"""`apr report`: curves, gates and receipts of runs, as one HTML file and as PNG."""

from __future__ import annotations

from pathlib import Path

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out


@click.command("report")
@click.argument("runs", type=PATH, metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=PATH, default=Path("report.html"), show_default=True, help="HTML file to write or replace."
)
@click.option("--png", "pictures", type=PATH, metavar="DIR", help="Also write each curve into DIR as a PNG.")
@click.option(
    "--smooth", "smooth_steps", type=click.IntRange(min=2), metavar="N", help="Add the mean training loss of N steps."
)
@json_option
@click.pass_obj
def command(out: Out, runs: tuple[Path, ...], output: Path, pictures: Path | None, smooth_steps: int | None) -> None:
    """Report on one run directory, or lay several over each other.

    The page needs nothing from the net. Measured values are always shown as measured; --smooth adds a second line.
    """
    from apr.reporting.charts import run_label
    from apr.reporting.report import write_report

    written = write_report(runs, output, picture_directory=pictures, smooth_steps=smooth_steps)
    rows = [
        {
            "name": run_label(run, written.runs),
            "path": str(run.path),
            "status": run.status_word,
            "steps": len(run.steps),
            "final_val_loss": None if run.status is None else run.status.get("final_val_loss"),
            "best_val_loss": None if run.status is None else run.status.get("best_val_loss"),
            "problems": list(run.problems),
        }
        for run in written.runs
    ]
    out.document(
        "apr.report/1",
        {"output": str(output), "pictures": [str(path) for path in written.pictures], "runs": rows},
    )
    out.table(
        ["run", "status", "steps", "best val loss", "final val loss"],
        [[row["name"], row["status"], row["steps"], row["best_val_loss"], row["final_val_loss"]] for row in rows],
        right=["steps", "best val loss", "final val loss"],
    )
    for run in written.runs:
        for problem in run.problems:
            out.warning(f"{run_label(run, written.runs)}: {problem}")
    out.text(f"wrote {output}" + (f" and {len(written.pictures)} pictures" if written.pictures else ""))
