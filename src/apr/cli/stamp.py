"""`apr stamp`: change what a checkpoint says of itself; refuses to write a lie."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.byte_progress import byte_progress
from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode, UsageError, shell_word

if TYPE_CHECKING:
    from apr.convert.metering import Report
    from apr.stamping.fleet import Outcome
    from apr.stamping.result import StampResult

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
@click.argument("names", nargs=-1, required=True, metavar="X...")
@click.option(
    "-o", "--output", type=PATH, metavar="OUT", help="Write the stamped checkpoint here; FILE stays as it is."
)
@click.option("--in-place", is_flag=True, help="Stamp FILE itself; a link is followed to the file it leads to.")
@click.option("-f", "--force", is_flag=True, help="Replace OUT when it exists.")
@click.option("--architecture", metavar="FAMILY", help="Family slug, as qwen2 (APR metadata, GGUF).")
@click.option("--hf-architecture", metavar="CLASS", help="Class name, as Qwen2ForCausalLM.")
@click.option("--hf-model-type", metavar="TYPE", help="Model type of transformers, as qwen2.")
@click.option("--license", "license_", metavar="SPDX", help="Licence of the weights, an SPDX expression.")
@click.option("--data-source", metavar="TEXT", help="What the weights were trained on.")
@click.option("--data-license", metavar="SPDX", help="Licence of that data, an SPDX expression.")
@click.option("--tokenizer", type=PATH, metavar="DIR", help="Embed the tokenizer files of DIR, all of them, unchanged.")
@click.option("--set", "settings", multiple=True, metavar="KEY=JSON", help="Set any other metadata key (repeatable).")
@click.option("--auto", is_flag=True, help="Stamp the identity that the tensors show, as far as they decide it.")
@click.option("--undo", is_flag=True, help="Take back the newest stamp; the history says what stood there.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes for many checkpoints [all cores].")
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
    names: tuple[str, ...],
    settings: tuple[str, ...],
    license_: str | None,
    jobs: int | None,
    output: Path | None,
    in_place: bool,
    force: bool,
    reason: str | None,
    force_untrue: str | None,
    dry_run: bool,
    auto: bool,
    undo: bool,
    **stamps: Any,
) -> None:
    """Change what checkpoints say of themselves; their tensors are proven to stay as they are.

    X is an .apr, .safetensors or .gguf file or a Hugging Face directory; many of them, a pattern, a folder that is
    searched, or - for paths on stdin, one a line, are stamped in place, on all cores. A stamp that contradicts the
    tensors is refused (exit 5) with the command that would be right. Previous values are kept in the file.
    """
    from apr.stamping.changes import StampChanges, parse_settings
    from apr.stamping.patch import stamp_file

    changes = StampChanges(license=license_, settings=parse_settings(settings), **stamps)

    def stamp(path: Path, report: Report | None = None) -> StampResult:
        return stamp_file(
            path,
            changes,
            output,
            in_place=in_place,
            force=force,
            force_reason=force_untrue,
            reason=reason,
            dry_run=dry_run,
            undo=undo,
            auto=auto,
            report=report,
        )

    single = _single(names)
    if single is None:
        _stamp_many(out, names, stamp, output, jobs)
        return
    with byte_progress(out, "stamping") as report:
        result = stamp(single, report)
    out.document("apr.stamp/1", stamp_document(result))
    _show(out, result)


def _single(names: tuple[str, ...]) -> Path | None:
    """The one checkpoint that is meant; None for a fleet."""
    if len(names) > 1 or names[0] == "-":
        return None
    path = Path(names[0])
    if path.is_dir():
        from apr.stamping.fleet import is_folder_of_checkpoints

        return None if is_folder_of_checkpoints(path) else path
    return None if set("*?[") & set(names[0]) and not path.exists() else path


def _stamp_many(
    out: Out, names: tuple[str, ...], stamp: Callable[[Path], StampResult], output: Path | None, jobs: int | None
) -> None:
    from apr.stamping.fleet import Status, find_checkpoints, stamp_fleet

    if output is not None:
        raise UsageError(
            "many checkpoints are stamped where they stand",
            where="-o",
            expected="--in-place for more than one checkpoint",
            found=f"-o {output}",
            remedy="apr stamp ... --in-place",
        )
    paths = find_checkpoints(_from_stdin(names))
    counts = dict.fromkeys(Status, 0)
    with out.progress("stamping", len(paths), "checkpoints") as progress:
        for outcome in stamp_fleet(paths, stamp, stamp_document, jobs):
            counts[outcome.status] += 1
            progress.advance(1)
            body = {"path": outcome.path, "status": outcome.status.value}
            is_failed = outcome.status is Status.FAILED
            out.document_line("apr.stamp-outcome/1", {**body, "error" if is_failed else "stamp": outcome.answer})
            out.text(_outcome_line(outcome), color="red" if is_failed else None)
    said = {status.value.replace(" ", "_"): count for status, count in counts.items()}
    out.document_line("apr.stamp-summary/1", {"checkpoints": len(paths), **said})
    out.text(f"{len(paths)} checkpoints: " + ", ".join(f"{n} {each}" for each, n in counts.items() if n), bold=True)
    if counts[Status.FAILED]:
        raise click.exceptions.Exit(int(ExitCode.REFUSED))


def _from_stdin(names: tuple[str, ...]) -> list[str]:
    listed: list[str] = []
    for name in names:
        listed += [line.rstrip("\n") for line in sys.stdin if line.strip()] if name == "-" else [name]
    if not listed:
        raise UsageError("no paths came on stdin", expected="one path a line", remedy="ls *.apr | apr stamp - ...")
    return listed


def _outcome_line(outcome: Outcome) -> str:
    head = f"{outcome.status.value:<13}  {outcome.path}"
    answer = outcome.answer
    if outcome.status.value == "failed":
        invariant = f"[{answer['invariant']}] " if answer["invariant"] else ""
        return f"{head}  {invariant}{answer['message']}"
    parts = [head, *(f"{each['key']} = {_short(each['new'])}" for each in answer["changes"][:3])]
    return "  ".join([*parts, *(["(its signature is broken)"] if answer["broken_signatures"] else [])])


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
        "broken_signatures": [each.to_json() for each in result.broken_signatures],
        "notes": list(result.notes),
    }


def _show(out: Out, result: StampResult) -> None:
    out.text(f"would stamp {result.source}" if result.is_dry_run else f"stamped {result.output}", bold=True)
    out.table(
        ["key", "before", "after"],
        [
            [
                change.key,
                "-" if change.was_absent else _short(change.previous),
                "-" if change.is_removed else _short(change.new),
            ]
            for change in result.changes
        ],
    )
    out.findings(result.findings)
    for note in result.notes:
        out.warning(note)
    if not result.is_dry_run:
        out.hint(f"apr preflight {shell_word(result.output)}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_VALUE_CHARACTERS else text[: MOST_VALUE_CHARACTERS - 1] + "…"
