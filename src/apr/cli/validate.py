"""`apr validate`: is the file intact, and are its values values? Every byte is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode

if TYPE_CHECKING:
    from apr.formats.base import Checkpoint
    from apr.quality.validation import Validation

MARKS = {"pass": ("ok", "green"), "warn": ("warning", "yellow"), "fail": ("FAILED", "red"), "skip": ("skipped", None)}


@click.command("validate")
@click.argument("path", type=PATH, metavar="X")
@click.option("--strict", is_flag=True, help="Let warnings (all-zero or constant matrices) fail too.")
@json_option
@click.pass_obj
def command(out: Out, path: Path, strict: bool) -> None:
    """Check every byte of X: checksums, extents, recorded digests, finite values.

    Exit 4 when the file is damaged, 5 when its content fails a check.
    """
    from apr.formats.registry import open_readable
    from apr.quality.validation import validate_checkpoint

    with open_readable(path) as checkpoint:
        validation = validate_checkpoint(checkpoint)
        document = _document(checkpoint, validation, path, strict)
    out.document("apr.validate/1", document)
    for check in validation.checks:
        mark, color = MARKS[check.status.value]
        out.text(f"{mark:<8} {check.name}: {check.detail}", color=color if check.status.value != "pass" else None)
    out.text(document["verdict"], bold=True, color="green" if document["verdict"] == "VALID" else "red")
    code = _exit_code(validation, strict)
    if code is not ExitCode.DONE:
        if code is ExitCode.DAMAGED:
            out.hint("fetch or restore an intact copy of the file")
        raise click.exceptions.Exit(int(code))


def _exit_code(validation: Validation, strict: bool) -> ExitCode:
    if validation.is_damaged():
        return ExitCode.DAMAGED
    return ExitCode.REFUSED if validation.failures(strict=strict) else ExitCode.DONE


def _document(checkpoint: Checkpoint, validation: Validation, path: Path, strict: bool) -> dict[str, Any]:
    """Keys of the founding project where they mean the same; `total_score` is passed of run, in percent."""
    from apr.quality.inspection import FORMAT_NAMES

    ran = [check for check in validation.checks if check.status.value != "skip"]
    failed = validation.failures(strict=strict)
    return {
        "model": str(path),
        "format": FORMAT_NAMES[checkpoint.format],
        "strict": strict,
        "verdict": "INVALID" if failed else "VALID",
        "total_score": round(100 * (len(ran) - len(failed)) / len(ran)),
        "total_checks": len(validation.checks),
        "checks_ran": len(ran),
        "passed": len(ran) - len(failed),
        "failed": len(failed),
        "checks": [check.to_json() for check in validation.checks],
        "content_passed": not any(check.is_content for check in failed),
        "content_total_nan": validation.nan_count,
        "content_total_inf": validation.inf_count,
        "content_all_zero_tensors": list(validation.all_zero_tensors),
        "content_failed_tensors": list(validation.failed_tensors),
    }
