"""`apr lint`: what a checkpoint still lacks before it is published."""

from __future__ import annotations

from pathlib import Path

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode

COLORS = {"error": "red", "warn": "yellow", "info": None}


@click.command("lint")
@click.argument("path", type=PATH, metavar="X")
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@json_option
@click.pass_obj
def command(out: Out, path: Path, strict: bool) -> None:
    """Say what X still lacks before it is published, each with the command that adds it.

    Exit 5 when something is untrue or broken, with --strict also when something is missing.
    """
    from apr.formats.registry import open_checkpoint
    from apr.quality.lint import Level, lint_checkpoint

    with open_checkpoint(path) as checkpoint:
        issues = lint_checkpoint(checkpoint)
    counts = {level: sum(issue.level is level for issue in issues) for level in Level}
    is_passed = not counts[Level.ERROR] and not (strict and counts[Level.WARN])
    out.document(
        "apr.lint/1",
        {
            "model": str(path),
            "passed": is_passed,
            "error_count": counts[Level.ERROR],
            "warn_count": counts[Level.WARN],
            "info_count": counts[Level.INFO],
            "total_issues": len(issues),
            "issues": [issue.to_json() for issue in issues],
        },
    )
    for issue in issues:
        out.text(f"{issue.level.value:<6} {issue.category}: {issue.message}", color=COLORS[issue.level.value])
        out.text(f"{'':<6} {issue.suggestion}")
    out.text(
        f"{counts[Level.ERROR]} errors, {counts[Level.WARN]} warnings, {counts[Level.INFO]} notes",
        bold=True,
        color="green" if is_passed else "red",
    )
    if not is_passed:
        raise click.exceptions.Exit(int(ExitCode.REFUSED))
