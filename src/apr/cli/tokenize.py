"""`apr tokenize`: train a tokenizer, and encode a corpus into token shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out, human_count, human_duration
from apr.errors import shell_word


@click.group(name="tokenize", help="Train a tokenizer; encode a corpus into token shards.")
def command() -> None:
    """The group itself does nothing."""


def _corpus_options(function: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--corpus",
                "corpora",
                type=PATH,
                multiple=True,
                required=True,
                help="JSONL, Parquet or text file, or a directory that is searched (repeatable).",
            ),
            click.option(
                "--glob",
                "globs",
                multiple=True,
                metavar="PATTERN",
                help="Which files of a directory to take, as '*.py' (repeatable). Default: known text extensions.",
            ),
            click.option(
                "--content-field",
                default="content",
                show_default=True,
                help="Field of JSONL and Parquet with the text.",
            ),
            click.option(
                "--normalization",
                type=click.Choice(["nfc", "none"]),
                default="nfc",
                show_default=True,
                help="Unicode normalisation of the text.",
            ),
        )
    ):
        function = option(function)
    return function


@command.command("train", help="Train a byte-level BPE tokenizer that transformers opens.")
@_corpus_options
@click.option(
    "--vocab-size", type=int, default=50_257, show_default=True, help="Largest number of tokens, 257 or more."
)
@click.option(
    "--min-frequency", type=click.IntRange(min=0), default=2, show_default=True, help="Merge pairs seen this often."
)
@click.option(
    "--output", "-o", type=PATH, default=Path("tokenizer-output"), show_default=True, help="New directory to write."
)
@json_option
@click.pass_obj
def train_command(
    out: Out,
    corpora: tuple[Path, ...],
    globs: tuple[str, ...],
    content_field: str,
    normalization: str,
    vocab_size: int,
    min_frequency: int,
    output: Path,
) -> None:
    from apr.training.documents import Normalization
    from apr.training.tokenize_train import TokenizerTrainingOptions, train_tokenizer

    options = TokenizerTrainingOptions(
        corpora=corpora,
        output=output,
        vocabulary_size=vocab_size,
        min_frequency=min_frequency,
        normalization=Normalization(normalization),
        content_field=content_field,
        globs=globs,
    )
    with out.progress("reading", None, "documents") as progress:
        trained = train_tokenizer(options, lambda document: progress.advance(detail=document.place))
    _warn_not_text(out, trained.files_not_text)
    if trained.vocabulary_size < trained.requested_vocabulary_size:
        out.warning(
            f"the corpus gave {trained.vocabulary_size} tokens of the {trained.requested_vocabulary_size} asked for: "
            "use more text or a lower --min-frequency"
        )
    out.document("apr.tokenize-train/1", trained.to_json())
    out.pairs(
        [
            ("tokenizer", trained.output),
            ("vocabulary", human_count(trained.vocabulary_size)),
            ("documents", human_count(trained.documents)),
            ("time", human_duration(trained.training_seconds)),
            ("output hash", trained.tokenizer_hash),
        ]
    )
    out.hint(
        f"apr tokenize encode-corpus --tokenizer {shell_word(output)} --corpus {shell_word(corpora[0])} --output tokens"
    )


@command.command("encode-corpus", help="Encode a corpus into token shards for `apr pretrain --dataset`.")
@_corpus_options
@click.option("--tokenizer", type=PATH, required=True, help="Folder with tokenizer.json (or vocab.json, merges.txt).")
@click.option(
    "--output", "-o", type=PATH, required=True, help="New directory to write; it appears whole or not at all."
)
@click.option(
    "--shard-tokens", type=int, default=10_000_000, show_default=True, help="Close a shard after this many tokens."
)
@click.option(
    "--eos-policy",
    type=click.Choice(["none", "between", "after"]),
    default="between",
    show_default=True,
    help="Where the end-of-document token goes.",
)
@click.option("--validation-fraction", type=float, help="Share of documents kept for validation, split by text hash.")
@click.option("--validation-docs", type=int, help="Number of different documents kept for validation.")
@click.option("--parse-special-tokens", is_flag=True, help="Read <|...|> in the text as control tokens, not as text.")
@click.option("--num-workers", type=click.IntRange(min=1), help="Threads of the tokenizer; default: all cores.")
@click.option("--progress-interval-docs", type=int, hidden=True, help="Accepted for upstream's scripts; not needed.")
@click.option("--progress-interval-seconds", type=int, hidden=True, help="Accepted for upstream's scripts; not needed.")
@click.option("--quiet", is_flag=True, help="No progress lines.")
@click.option("--estimate-only", is_flag=True, help="Encode a sample, say what the whole would give, write nothing.")
@click.option(
    "--estimate-sample-docs",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Documents in the sample of --estimate-only.",
)
@json_option
@click.pass_obj
def encode_command(
    out: Out,
    /,
    quiet: bool,
    num_workers: int | None,
    estimate_only: bool,
    estimate_sample_docs: int,
    progress_interval_docs: int | None,
    progress_interval_seconds: int | None,
    **arguments: Any,
) -> None:
    if num_workers is not None:
        os.environ["RAYON_NUM_THREADS"] = str(num_workers)
    from apr.training.documents import Normalization
    from apr.training.encode_options import EncodeOptions, EosPolicy
    from apr.training.tokenize_encode import encode_corpus
    from apr.training.tokenize_estimate import estimate_corpus

    options = EncodeOptions(
        corpora=arguments["corpora"],
        tokenizer=arguments["tokenizer"],
        output=arguments["output"],
        shard_tokens=arguments["shard_tokens"],
        content_field=arguments["content_field"],
        normalization=Normalization(arguments["normalization"]),
        eos_policy=EosPolicy(arguments["eos_policy"]),
        globs=arguments["globs"],
        validation_fraction=arguments["validation_fraction"],
        validation_documents=arguments["validation_docs"],
        parse_special_tokens=arguments["parse_special_tokens"],
        workers=num_workers,
    )
    if estimate_only:
        estimate = estimate_corpus(options, estimate_sample_docs)
        out.document("apr.tokenize-estimate/1", estimate.to_json())
        out.pairs((key.replace("_", " "), value) for key, value in estimate.to_json().items())
        return
    with out.progress("encoding", None, "documents") as progress:
        encoded = encode_corpus(options, None if quiet else lambda document: progress.advance(detail=document.place))
    manifest = encoded.manifest
    _warn_not_text(out, manifest["files_not_text"])
    out.document("apr.tokenize-encode/1", {"output": str(encoded.output), "manifest": manifest})
    out.pairs(_encoded_pairs(encoded.output, manifest))
    out.hint(
        f"apr pretrain --dataset {shell_word(options.output)} "
        f"--tokenizer {shell_word(options.tokenizer)} --run-dir RUN ..."
    )


def _encoded_pairs(output: Path, manifest: dict[str, Any]) -> list[tuple[str, object]]:
    validation = manifest["validation"]
    ratio = manifest["unknown_ratio"]
    bytes_per_token = manifest["bytes_per_token"]
    return [
        ("corpus", output),
        ("tokens", f"{manifest['total_tokens']:,} in {manifest['shard_count']} shards"),
        ("documents", human_count(manifest["total_documents"])),
        ("validation", None if validation is None else f"{validation['total_tokens']:,} tokens, other documents"),
        ("bytes per token", None if bytes_per_token is None else f"{bytes_per_token:.2f}"),
        ("entropy", f"{manifest['unigram_entropy_bits']:.2f} bits per token"),
        ("unknown tokens", "none possible" if ratio is None else f"{100 * ratio:.3f} %"),
        ("time", human_duration(manifest["elapsed_seconds"])),
    ]


def _warn_not_text(out: Out, paths: Any) -> None:
    if paths:
        shown = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
        out.warning(f"{len(paths)} files of the source tree are not UTF-8 and were left out: {shown}")
