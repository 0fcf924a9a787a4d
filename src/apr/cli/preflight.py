"""`apr preflight`: would a run start from the right weights? Every gate of `pretrain --init`, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from apr.gates.facts import TokenizerFacts
    from apr.gates.road import Examination, RoadOptions


def parse_reasons(entries: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=REASON` entries as a mapping; UsageError when one has no reason."""
    reasons = {}
    for entry in entries:
        name, separator, reason = entry.partition("=")
        if not (name and separator and reason.strip()):
            raise UsageError(
                f"{option} needs a name and a reason", expected=f"{option} NAME=REASON", found=f"{option} {entry}"
            )
        reasons[name] = reason.strip()
    return reasons


def allow_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--allow TENSOR=REASON` and `--allow-gate ID=REASON`, both repeatable."""
    function = click.option(
        "--allow-gate",
        "allowed_gates",
        multiple=True,
        metavar="ID=REASON",
        help="Let one gate's refusal pass, with a reason that is recorded.",
    )(function)
    return click.option(
        "--allow",
        "allowed_tensors",
        multiple=True,
        metavar="TENSOR=REASON",
        help="Accept one unfilled or unused tensor, with a reason that is recorded.",
    )(function)


@click.command("preflight")
@click.argument("paths", type=PATH, metavar="PATH...", nargs=-1, required=True)
@click.option("--deep", "is_deep", is_flag=True, help="Read every byte: checksums, digests, values (no torch).")
@click.option(
    "--load",
    "is_loaded",
    is_flag=True,
    help="Also load the model: receipt, derived buffers and the recorded probe (needs torch and transformers).",
)
@click.option("--tokenizer", type=PATH, metavar="DIR", help="Hold this tokenizer against the checkpoint.")
@allow_options
@json_option
@click.pass_obj
def command(
    out: Out,
    paths: tuple[Path, ...],
    is_deep: bool,
    is_loaded: bool,
    tokenizer: Path | None,
    allowed_tensors: tuple[str, ...],
    allowed_gates: tuple[str, ...],
) -> None:
    """Would a run that starts from PATH start from the weights it names? Exit 0 accepted, 5 refused.

    PATH is an .apr file, a .safetensors file or a Hugging Face directory. Several paths give one line each, with
    --json one document a line.
    """
    from apr.gates.road import RoadOptions

    options = RoadOptions(
        tokenizer=None if tokenizer is None else _tokenizer_facts(tokenizer),
        allowed_tensors=parse_reasons(allowed_tensors, "--allow"),
        allowed_gates=parse_reasons(allowed_gates, "--allow-gate"),
        may_use_zoo=is_loaded,
    )
    if len(paths) == 1:
        _answer_one(out, paths[0], options, is_deep, is_loaded)
    else:
        _answer_many(out, paths, options, is_deep, is_loaded)


def _walk(path: Path, options: RoadOptions, is_deep: bool, is_loaded: bool) -> Examination:
    from apr.gates.road import deepen, examine, try_load

    examination = examine(path, options)
    try:
        if is_deep or is_loaded:
            examination = deepen(examination)
        if is_loaded:
            examination = try_load(examination)[1]
    finally:
        examination.close()
    return examination


def _answer_one(out: Out, path: Path, options: RoadOptions, is_deep: bool, is_loaded: bool) -> None:
    from apr.gates.document import preflight_document

    examination = _walk(path, options, is_deep, is_loaded)
    document = preflight_document(examination)
    out.document(document.pop("schema"), document)
    verdict = examination.facts.verdict
    out.text(str(path), bold=True)
    if verdict is not None:
        claimed = verdict.claim.architecture
        out.pairs([("claimed", claimed), ("verdict", verdict.kind.value)])
    out.findings(examination.findings)
    out.text("accepted" if examination.is_accepted else "refused", bold=True, color=_color(examination))
    _exit(exit_code_of(examination))


def _answer_many(out: Out, paths: tuple[Path, ...], options: RoadOptions, is_deep: bool, is_loaded: bool) -> None:
    from apr.gates.document import preflight_document

    worst = ExitCode.DONE
    rows: list[list[object]] = []
    with out.progress("preflight", len(paths), "checkpoints") as progress:
        for path in paths:
            examination = _walk(path, options, is_deep, is_loaded)
            worst = ExitCode.REFUSED if not examination.is_accepted else worst
            document = preflight_document(examination)
            out.document_line(document.pop("schema"), document)
            rows.append(_row(examination))
            progress.advance(1, path.name)
    out.table(["path", "format", "claimed", "verdict", "answer"], rows)
    _exit(worst)


def _row(examination: Examination) -> list[object]:
    facts, refusals = examination.facts, examination.refusals
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    ids = list(dict.fromkeys(finding.id for finding in refusals))
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return [
        facts.path,
        facts.checkpoint.format.value if facts.checkpoint is not None else None,
        claimed.class_name if claimed is not None else None,
        facts.verdict.kind.value if facts.verdict is not None else None,
        "accepted" if examination.is_accepted else f"refused: {ids[0]}{more}",
    ]


def exit_code_of(examination: Examination) -> ExitCode:
    """0 accepted, 3 no such path, 4 no known format, 5 refused by a gate (a damaged checkpoint included)."""
    if examination.is_accepted:
        return ExitCode.DONE
    error = examination.facts.opening_error
    if error is None or error.invariant == "INV-FILE-INTEGRITY-001":
        return ExitCode.REFUSED
    return error.exit_code


def _color(examination: Examination) -> str:
    return "green" if examination.is_accepted else "red"


def _exit(code: ExitCode) -> None:
    if code is not ExitCode.DONE:
        raise click.exceptions.Exit(int(code))


def _tokenizer_facts(directory: Path) -> TokenizerFacts:
    from apr.gates.facts import TokenizerFacts
    from apr.loading.tokenizer import (
        build_tokenizer,
        read_tokenizer_files,
        tokenizer_output_hash,
        vocabulary_size,
    )

    files = read_tokenizer_files(directory)
    size = vocabulary_size(build_tokenizer(files, where=str(directory)))
    return TokenizerFacts(str(directory), size, tokenizer_output_hash(files))
