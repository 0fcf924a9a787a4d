"""`apr preflight`: would a run start from the right weights? Every gate of `pretrain --init`, without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apr.cli.options import PATH, SOURCE, allow_options, json_option, parse_reasons, plain_http_option
from apr.cli.out import Out
from apr.cli.walking import Walk, document_of, walked
from apr.errors import ExitCode

if TYPE_CHECKING:
    from apr.gates.facts import TokenizerFacts
    from apr.gates.road import Examination
    from apr.library.network import Network


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
    from apr.cli.preflight_many import answer_many, expand_patterns
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
            _exit(answer_many(out, found, walk))


@contextmanager
def _network_for(
    sources: tuple[Path | str, ...], deep_options: Mapping[str, bool], allows_plain_http: bool
) -> Iterator[Network | None]:
    """The way to other machines when an address is named, every address checked; None, and no import, otherwise."""
    addresses = [source for source in sources if isinstance(source, str)]
    if not addresses:
        yield None
        return
    from apr.cli.network import network_of_environment, refuse_on_addresses

    refuse_on_addresses(addresses, deep_options)
    network = network_of_environment(allows_plain_http)
    try:
        for address in addresses:
            network.address(address)
        yield network
    finally:
        network.client.close()


def _answer_one(out: Out, path: Path | str, walk: Walk) -> None:
    examination, traffic = walked(path, walk)
    document = document_of(path, examination, traffic)
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
