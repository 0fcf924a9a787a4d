"""`apr preflight`: would a run start from the right weights? Every gate of `pretrain --init`, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import AprError, ExitCode, UsageError

if TYPE_CHECKING:
    from apr.gates.facts import TokenizerFacts
    from apr.gates.road import Examination, RoadOptions


# Starting processes costs more than reading this many headers.
FEWEST_PATHS_FOR_PROCESSES = 8


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
@click.option("--as", "load_as", metavar="CLASS", help="What if it were loaded as CLASS, whatever its stamps say?")
@click.option(
    "--kind",
    type=click.Choice(["decoder", "encoder", "seq2seq", "classification"]),
    help="What the run will train; `decoder` refuses, as `apr pretrain` does, what predicts no next token.",
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
    load_as: str | None,
    kind: str | None,
    tokenizer: Path | None,
    allowed_tensors: tuple[str, ...],
    allowed_gates: tuple[str, ...],
) -> None:
    """Would a run that starts from PATH start from the weights it names? Exit 0 accepted, 5 refused.

    PATH is an .apr file, a .safetensors file or a Hugging Face directory. Several paths (or a quoted pattern such as
    'fleet/*') are read on all cores and give one line each in the order given, with --json one document a line.
    """
    from apr.gates.road import RoadOptions
    from apr.identity.types import Kind

    options = RoadOptions(
        run_kind=None if kind is None else Kind(kind),
        tokenizer=None if tokenizer is None else _tokenizer_facts(tokenizer),
        allowed_tensors=parse_reasons(allowed_tensors, "--allow"),
        allowed_gates=parse_reasons(allowed_gates, "--allow-gate"),
        may_use_zoo=is_loaded,
        load_as=load_as,
    )
    found = expand_patterns(paths)
    if len(found) == 1:
        _answer_one(out, found[0], options, is_deep, is_loaded)
    else:
        _answer_many(out, found, options, is_deep, is_loaded)


def expand_patterns(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Each path as it is, or in place of a pattern that names nothing itself the sorted paths it matches.

    A pattern without any match stays, so that it is reported as not found.
    """
    expanded: list[Path] = []
    for path in paths:
        is_pattern = any(character in str(path) for character in "*?[") and not path.exists()
        expanded += sorted(map(Path, glob(str(path)))) if is_pattern else []
        if not is_pattern or not glob(str(path)):
            expanded.append(path)
    return tuple(expanded)


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


class Answer(NamedTuple):
    """What one path of several came to, as plain data that travels between processes."""

    document: dict[str, Any]
    row: list[object]
    is_accepted: bool


def _answer_many(out: Out, paths: tuple[Path, ...], options: RoadOptions, is_deep: bool, is_loaded: bool) -> None:
    worst = ExitCode.DONE
    rows: list[list[object]] = []
    ask = partial(answer_of, options=options, is_deep=is_deep, is_loaded=is_loaded)
    with out.progress("preflight", len(paths), "checkpoints") as progress, _workers(paths, is_deep, is_loaded) as work:
        for path, answer in zip(paths, work(ask, paths), strict=True):
            worst = worst if answer.is_accepted else ExitCode.REFUSED
            out.document_line(answer.document.pop("schema"), answer.document)
            rows.append(answer.row)
            progress.advance(1, path.name)
    out.table(["path", "format", "claimed", "verdict", "answer"], rows)
    _exit(worst)


@contextmanager
def _workers(paths: tuple[Path, ...], is_deep: bool, is_loaded: bool) -> Iterator[Callable[..., Iterable[Answer]]]:
    """Something that maps in order: over processes where reading headers is the work, else one after the other.

    Deep reading uses all cores by itself, and a loaded model the memory.
    """
    from apr.storage.digests import usable_cores

    if is_deep or is_loaded or len(paths) < FEWEST_PATHS_FOR_PROCESSES or usable_cores() == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor

    from apr.identity.atlas import load_atlas

    # Read before the processes part, so that they share it.
    load_atlas()
    with ProcessPoolExecutor(usable_cores()) as pool:
        yield partial(pool.map, chunksize=8)


def answer_of(path: Path, options: RoadOptions, is_deep: bool, is_loaded: bool) -> Answer:
    """The answer for one of several paths; what cannot be read is an answer too, so that the others get theirs."""
    from apr.gates.document import SCHEMA, preflight_document

    try:
        examination = _walk(path, options, is_deep, is_loaded)
    except AprError as error:
        document = {"schema": SCHEMA, "path": str(path), "accepted": False, "error": error.to_json()}
        return Answer(document, [path, None, None, None, f"error: {error.what}"], is_accepted=False)
    return Answer(preflight_document(examination), _row(examination), examination.is_accepted)


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
