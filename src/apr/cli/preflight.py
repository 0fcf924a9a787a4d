"""`apr preflight`: would a run start from the right weights? Every gate of `pretrain --init`, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from apr.cli.options import PATH, SOURCE, allow_options, json_option, parse_reasons, plain_http_option
from apr.cli.out import Out
from apr.errors import AprError, ExitCode, UsageError

if TYPE_CHECKING:
    from apr.cli.network import Network
    from apr.gates.facts import TokenizerFacts
    from apr.gates.road import Examination, RoadOptions
    from apr.storage.remote.traffic import Traffic


# Starting processes costs more than reading this many headers.
FEWEST_PATHS_FOR_PROCESSES = 8

# Waiting for servers is the work; each address in flight asks for several of its files at once.
ADDRESSES_AT_A_TIME = 8


@click.command("preflight")
@click.argument("paths", type=SOURCE, metavar="PATH...", nargs=-1, required=True)
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
@click.option("--base", type=PATH, metavar="PATH", help="Of a PEFT adapter: the base model (default: as it names it).")
@click.option("--fresh-adapter", "is_fresh", is_flag=True, help="Of a PEFT adapter: it is untrained on purpose.")
@allow_options
@plain_http_option
@json_option
@click.pass_obj
def command(
    out: Out,
    paths: tuple[Path | str, ...],
    is_deep: bool,
    is_loaded: bool,
    load_as: str | None,
    kind: str | None,
    tokenizer: Path | None,
    base: Path | None,
    is_fresh: bool,
    allowed_tensors: tuple[str, ...],
    allowed_gates: tuple[str, ...],
    allows_plain_http: bool,
) -> None:
    """Would a run that starts from PATH start from the weights it names? Exit 0 accepted, 5 refused.

    PATH is an .apr, .safetensors or .gguf file, a Hugging Face directory, or a directory with a PEFT adapter. Several
    paths (or a quoted pattern such as 'fleet/*') are read on all cores and give one line each in the order given, with
    --json one document a line.

    PATH may be the address of one on another machine (hf://org/name, hf://org/name@revision, https://...): then only
    headers and configs are fetched, kilobytes a model. Environment: HF_ENDPOINT, HF_TOKEN.
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
    with _network_for(found, {"--deep": is_deep, "--load": is_loaded}, allows_plain_http) as network:
        walk = Walk(options, is_deep, is_loaded, base, is_fresh, network)
        if len(found) == 1:
            _answer_one(out, found[0], walk)
        else:
            _answer_many(out, found, walk)


def expand_patterns(paths: Iterable[Path | str]) -> tuple[Path | str, ...]:
    """Each path as it is, or in place of a pattern that names nothing itself the sorted paths it matches.

    A pattern without any match stays, so that it is reported as not found. An address is never a pattern.
    """
    expanded: list[Path | str] = []
    for path in paths:
        if isinstance(path, str):
            expanded.append(path)
            continue
        is_pattern = any(character in str(path) for character in "*?[") and not path.exists()
        expanded += sorted(map(Path, glob(str(path)))) if is_pattern else []
        if not is_pattern or not glob(str(path)):
            expanded.append(path)
    return tuple(expanded)


@contextmanager
def _network_for(
    sources: tuple[Path | str, ...], deep_options: Mapping[str, bool], allows_plain_http: bool
) -> Iterator[Network | None]:
    """The way to other machines when an address is named, every address checked; None, and no import, otherwise."""
    addresses = [source for source in sources if isinstance(source, str)]
    if not addresses:
        yield None
        return
    from apr.cli.network import Network, refuse_on_addresses

    refuse_on_addresses(addresses, deep_options)
    network = Network(allows_plain_http)
    try:
        for address in addresses:
            network.address(address)
        yield network
    finally:
        network.client.close()


class Walk(NamedTuple):
    """How every path of one command is walked. base, is_fresh: of the PEFT adapters among them. network: where
    addresses are read, None when none is named."""

    options: RoadOptions
    is_deep: bool = False
    is_loaded: bool = False
    base: Path | None = None
    is_fresh: bool = False
    network: Network | None = None


def _walked(source: Path | str, walk: Walk) -> tuple[Examination, Traffic | None]:
    """The examination of one path or address; of an address with what reading it cost."""
    from apr.formats.peft.read import is_adapter_directory

    if isinstance(source, Path) and is_adapter_directory(source):
        from apr.gates.adapters.road import AdapterOptions, examine_adapter

        adapter = AdapterOptions(base=walk.base, is_fresh=walk.is_fresh, fresh_words="--fresh-adapter")
        return examine_adapter(source, walk.options, adapter, partial(_walked_model, walk=walk)), None
    if walk.base is not None or walk.is_fresh:
        raise UsageError(
            "--base and --fresh-adapter are for PEFT adapters",
            where=str(source),
            expected="a directory with adapter_config.json and no model of its own",
            found="another path",
            remedy="leave them out",
        )
    if isinstance(source, str):
        assert walk.network is not None
        return walk.network.examine(source, walk.options)
    return _walked_model(source, walk.options, walk), None


def _walked_model(path: Path, options: RoadOptions, walk: Walk) -> Examination:
    from apr.gates.road import deepen, examine, try_load

    examination = examine(path, options)
    try:
        if walk.is_deep or walk.is_loaded:
            examination = deepen(examination)
        if walk.is_loaded:
            examination = try_load(examination)[1]
    finally:
        examination.close()
    return examination


def _document(source: Path | str, examination: Examination, traffic: Traffic | None) -> dict[str, Any]:
    from apr.gates.document import preflight_document

    document = preflight_document(examination) | {"path": str(source)}
    if traffic is not None:
        document["remote"] = traffic.to_json()
    return document


def _answer_one(out: Out, path: Path | str, walk: Walk) -> None:
    examination, traffic = _walked(path, walk)
    document = _document(path, examination, traffic)
    out.document(document.pop("schema"), document)
    verdict = examination.facts.verdict
    out.text(str(path), bold=True)
    if verdict is not None:
        claimed = verdict.claim.architecture
        out.pairs([("claimed", claimed), ("verdict", verdict.kind.value)])
    out.findings(examination.findings)
    if traffic is not None:
        from apr.cli.network import show_traffic

        show_traffic(out, traffic)
    out.text("accepted" if examination.is_accepted else "refused", bold=True, color=_color(examination))
    _exit(exit_code_of(examination))


class Answer(NamedTuple):
    """What one path of several came to, as plain data that travels between processes."""

    document: dict[str, Any]
    row: list[object]
    is_accepted: bool


def _answer_many(out: Out, paths: tuple[Path | str, ...], walk: Walk) -> None:
    worst = ExitCode.DONE
    rows: list[list[object]] = []
    ask = partial(answer_of, walk=walk)
    with out.progress("preflight", len(paths), "checkpoints") as progress, _workers(len(paths), walk) as work:
        for path, answer in zip(paths, work(ask, paths), strict=True):
            worst = worst if answer.is_accepted else ExitCode.REFUSED
            out.document_line(answer.document.pop("schema"), answer.document)
            rows.append(answer.row)
            progress.advance(1, path if isinstance(path, str) else path.name)
    fetched = ["fetched"] if walk.network is not None else []
    out.table(["path", "format", "claimed", "verdict", "answer", *fetched], [row[: 5 + len(fetched)] for row in rows])
    _exit(worst)


@contextmanager
def _workers(count: int, walk: Walk) -> Iterator[Callable[..., Iterable[Answer]]]:
    """Something that maps in order: over threads where servers are waited for, over processes where reading headers
    is the work, else one after the other.

    Deep reading uses all cores by itself, and a loaded model the memory.
    """
    from apr.identity.atlas import load_atlas
    from apr.storage.digests import usable_cores

    if walk.network is not None:
        from concurrent.futures import ThreadPoolExecutor

        load_atlas()
        threads = ThreadPoolExecutor(ADDRESSES_AT_A_TIME)
        try:
            yield threads.map
        except BaseException:
            walk.network.client.close()  # Nobody waits for servers after Ctrl-C.
            raise
        finally:
            threads.shutdown(cancel_futures=True)
        return
    if walk.is_deep or walk.is_loaded or count < FEWEST_PATHS_FOR_PROCESSES or usable_cores() == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor

    # Read before the processes part, so that they share it.
    load_atlas()
    with ProcessPoolExecutor(usable_cores()) as pool:
        yield partial(pool.map, chunksize=8)


def answer_of(path: Path | str, walk: Walk) -> Answer:
    """The answer for one of several paths; what cannot be read is an answer too, so that the others get theirs."""
    try:
        examination, traffic = _walked(path, walk)
    except AprError as error:
        from apr.gates.document import SCHEMA

        document = {"schema": SCHEMA, "path": str(path), "accepted": False, "error": error.to_json()}
        return Answer(document, [path, None, None, None, f"error: {error.what}", None], is_accepted=False)
    row = [path, *_row(examination), _fetched(traffic)]
    return Answer(_document(path, examination, traffic), row, examination.is_accepted)


def _fetched(traffic: Traffic | None) -> str | None:
    if traffic is None:
        return None
    from apr.cli.network import traffic_text

    return traffic_text(traffic)


def _row(examination: Examination) -> list[object]:
    facts, refusals = examination.facts, examination.refusals
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    ids = list(dict.fromkeys(finding.id for finding in refusals))
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return [
        facts.checkpoint.format.value if facts.checkpoint is not None else None,
        claimed.short_name if claimed is not None else None,
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
