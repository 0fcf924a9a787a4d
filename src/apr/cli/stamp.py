"""`apr stamp`: change what a checkpoint says of itself; refuses to write a lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.byte_progress import byte_progress
from apr.cli.options import PATH, json_option
from apr.cli.out import Out

if TYPE_CHECKING:
    from apr.stamping.patch import StampResult

UPSTREAM_STAMPED_KEYS = (
    "license",
    "data_source",
    "data_license",
    "hf_architecture",
    "hf_model_type",
    "architecture",
)
MOST_VALUE_CHARACTERS = 100


@click.command("stamp")
@click.argument("path", type=PATH, metavar="FILE")
@click.option(
    "-o", "--output", type=PATH, metavar="OUT", help="Write the stamped checkpoint here; FILE stays as it is."
)
@click.option("--in-place", is_flag=True, help="Stamp FILE itself; a link is followed to the file it leads to.")
@click.option("-f", "--force", is_flag=True, help="Replace OUT when it exists.")
@click.option("--architecture", metavar="FAMILY", help="Family slug of APR metadata, as qwen2.")
@click.option("--hf-architecture", metavar="CLASS", help="Class name, as Qwen2ForCausalLM.")
@click.option("--hf-model-type", metavar="TYPE", help="Model type of transformers, as qwen2.")
@click.option("--license", "license_", metavar="SPDX", help="Licence of the weights, an SPDX expression.")
@click.option("--data-source", metavar="TEXT", help="What the weights were trained on.")
@click.option("--data-license", metavar="SPDX", help="Licence of that data, an SPDX expression.")
@click.option("--tokenizer", type=PATH, metavar="DIR", help="Embed the tokenizer files of DIR, all of them, unchanged.")
@click.option("--set", "settings", multiple=True, metavar="KEY=JSON", help="Set any other metadata key (repeatable).")
@click.option("--reason", metavar="TEXT", help="Why; kept in the history in the file.")
@click.option(
    "--force-untrue",
    metavar="REASON",
    help="Write a stamp that contradicts the tensors; the reason is kept in the history.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, show the difference, write nothing.")
@json_option
@click.pass_obj
def command(
    out: Out,
    /,
    path: Path,
    output: Path | None,
    in_place: bool,
    force: bool,
    settings: tuple[str, ...],
    reason: str | None,
    force_untrue: str | None,
    dry_run: bool,
    license_: str | None,
    **stamps: Any,
) -> None:
    """Change what the checkpoint FILE says of itself; its tensors are proven to stay as they are.

    FILE is an .apr file, a .safetensors file or a Hugging Face directory. A stamp that contradicts the tensors is
    refused (exit 5) with the command that would be right. Previous values are kept in the file.
    """
    from apr.stamping.changes import StampChanges, parse_settings
    from apr.stamping.patch import stamp_file

    changes = StampChanges(license=license_, settings=parse_settings(settings), **stamps)
    with byte_progress(out, "stamping") as report:
        result = stamp_file(
            path,
            changes,
            output,
            in_place=in_place,
            force=force,
            force_reason=force_untrue,
            reason=reason,
            dry_run=dry_run,
            report=report,
        )
    out.document("apr.stamp/1", stamp_document(result))
    _show(out, result)


def stamp_document(result: StampResult) -> dict[str, Any]:
    """The JSON answer: the founding project's keys, then ours."""
    stamped = {key: result.stamped.get(key) for key in UPSTREAM_STAMPED_KEYS}
    return {
        "command": "stamp",
        "input": str(result.source),
        "output": str(result.output),
        "input_bytes": result.input_bytes,
        "output_bytes": result.output_bytes,
        "tensor_count": result.tensor_count,
        "stamped": {**stamped, **result.stamped},
        "header_flags_bits": result.header_flags,
        "format": result.format.value,
        "dry_run": result.is_dry_run,
        "changes": [change.to_json() for change in result.changes],
        "history_entry": dict(result.entry),
        "findings": [finding.to_json() for finding in result.findings],
        "notes": list(result.notes),
    }


def _show(out: Out, result: StampResult) -> None:
    out.text(f"would stamp {result.source}" if result.is_dry_run else f"stamped {result.output}", bold=True)
    out.table(
        ["key", "before", "after"],
        [
            [change.key, "-" if change.was_absent else _short(change.previous), _short(change.new)]
            for change in result.changes
        ],
    )
    out.findings(result.findings)
    for note in result.notes:
        out.warning(note)
    if not result.is_dry_run:
        out.hint(f"apr preflight {result.output}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_VALUE_CHARACTERS else text[: MOST_VALUE_CHARACTERS - 1] + "…"
