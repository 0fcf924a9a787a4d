"""`apr diff`: what two checkpoints have different, whatever containers they are in."""

from __future__ import annotations

from pathlib import Path

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode


@click.command("diff")
@click.argument("first", type=PATH, metavar="A")
@click.argument("second", type=PATH, metavar="B")
@click.option("--values", "with_values", is_flag=True, help="Read every byte: which tensors differ, and by how much.")
@click.option("--filter", "pattern", metavar="TEXT", help="Only facts and tensors whose name contains this text.")
@click.option("--limit", type=click.IntRange(min=0), default=40, show_default=True, help="Show this many; 0 shows all.")
@click.option("--exit-code", "is_checked", is_flag=True, help="Exit 5 when the two differ.")
@json_option
@click.pass_obj
def command(
    out: Out, first: Path, second: Path, with_values: bool, pattern: str | None, limit: int, is_checked: bool
) -> None:
    """Compare two checkpoints: stamps, metadata, config and tensors; an .apr with a directory, too.

    Without --values, tensors are compared by name, shape and dtype only. The exit code is 0 also when they differ,
    unless --exit-code is given.
    """
    from apr.formats.registry import open_readable
    from apr.quality.difference import category_counts, header_differences, value_differences
    from apr.quality.inspection import FORMAT_NAMES

    with open_readable(first) as ours, open_readable(second) as theirs:
        found = [*header_differences(ours, theirs), *(value_differences(ours, theirs) if with_values else ())]
        formats = (FORMAT_NAMES[ours.format], FORMAT_NAMES[theirs.format])
    kept = tuple(each for each in found if pattern is None or pattern in each.field)
    shown = kept[:limit] if limit else kept
    out.document(
        "apr.diff/1",
        {
            "file1": str(first),
            "file2": str(second),
            "format1": formats[0],
            "format2": formats[1],
            "values_compared": with_values,
            "identical": not kept,
            "difference_count": len(kept),
            "category_counts": category_counts(kept),
            "differences": [each.to_json() for each in shown],
        },
    )
    if kept:
        rows = [[each.category.value, each.field, each.first, each.second] for each in shown]
        out.table(["about", "what", str(first), str(second)], rows)
    hidden = len(kept) - len(shown)
    compared = "every byte of the tensors" if with_values else "headers only (--values reads the tensors)"
    out.text(
        f"{len(kept)} differences" + (f", {hidden} not shown" if hidden else "") + f"; compared: {compared}", bold=True
    )
    if kept and is_checked:
        raise click.exceptions.Exit(int(ExitCode.REFUSED))
