"""Encode a corpus into token shards, with the account that `apr pretrain` checks before it trains on them."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr import __version__
from apr.errors import RefusedError, UsageError
from apr.loading.tokenizer import (
    NamedToken,
    beginning_of_document_token,
    build_tokenizer,
    end_of_document_token,
    read_tokenizer_files,
    tokenizer_output_hash,
    unknown_token,
    vocabulary_size,
)
from apr.training.corpus_files import CorpusFile, corpus_files
from apr.training.corpus_manifest import (
    DOCUMENT_HASH_BYTES,
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    VALIDATION_FOLDER,
    CorpusStatistics,
    SideRow,
    side_to_json,
)
from apr.training.corpus_statistics import unigram_entropy_bits
from apr.training.documents import Document, Normalization, ReadingTally, read_documents
from apr.training.output_directory import new_directory
from apr.training.shard_writer import ShardWriter
from apr.training.tokenize_train import empty_corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Text handed to the tokenizer at once: enough for all its threads, little enough to keep memory flat.
BATCH_CHARACTERS = 2_000_000
BATCH_DOCUMENTS = 1024
HASH_RANGE = 1 << (8 * DOCUMENT_HASH_BYTES)
TOKENIZER_FOLDER = "tokenizer"


class EosPolicy(StrEnum):
    """Where the end-of-document token goes: nowhere, between documents, or after each."""

    NONE = "none"
    BETWEEN = "between"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """What `apr tokenize encode-corpus` is asked for; defaults as upstream's (`apr-v2` §4.10).

    validation_fraction, validation_documents: at most one; the split is by the hash of a document's text, so equal
    documents land on the same side. parse_special_tokens: read `<|...|>` in the text as control tokens rather than
    as text.
    """

    corpora: tuple[Path, ...]
    tokenizer: Path
    output: Path
    shard_tokens: int = 10_000_000
    content_field: str = "content"
    normalization: Normalization = Normalization.NFC
    eos_policy: EosPolicy = EosPolicy.BETWEEN
    globs: tuple[str, ...] = ()
    validation_fraction: float | None = None
    validation_documents: int | None = None
    parse_special_tokens: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedCorpus:
    """What was written: the manifest as a document, and where."""

    output: Path
    manifest: dict[str, Any]


@dataclass(frozen=True)
class _Encoder:
    files: dict[str, bytes]
    tokenizer: Tokenizer
    eos: NamedToken | None
    unknown: NamedToken | None
    vocabulary_size: int


def encode_corpus(options: EncodeOptions, on_document: Callable[[Document], None] | None = None) -> EncodedCorpus:
    """Encode `options.corpora` into `options.output`, which appears whole or not at all.

    Raises UsageError for contradicting options, RefusedError for an empty corpus or an empty side of the split, and
    what reading the corpus or the tokenizer raises.
    """
    check_options(options)
    encoder = open_encoder(options)
    files = corpus_files(options.corpora, options.globs)
    tally = ReadingTally()
    threshold = _validation_threshold(options, files)
    started_s = time.perf_counter()
    with new_directory(options.output) as directory:
        sides = _encode_sides(options, encoder, files, tally, threshold, directory, on_document)
        training, validation = sides.accounts
        if training.total_documents + (validation.total_documents if validation else 0) == 0:
            raise empty_corpus(options.corpora, tally)
        _check_sides(options, training, validation)
        (directory / TOKENIZER_FOLDER).mkdir()
        for name, content in encoder.files.items():
            (directory / TOKENIZER_FOLDER / name).write_bytes(content)
        manifest = _manifest(options, encoder, files, tally, sides, time.perf_counter() - started_s)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return EncodedCorpus(options.output, manifest)


def check_options(options: EncodeOptions) -> None:
    """Raise one UsageError that names every contradiction in `options`."""
    problems = []
    if options.shard_tokens < 1:
        problems.append("--shard-tokens must be at least 1")
    if options.validation_fraction is not None and options.validation_documents is not None:
        problems.append("give --validation-fraction or --validation-docs, not both")
    if options.validation_fraction is not None and not 0 < options.validation_fraction < 1:
        problems.append("--validation-fraction must lie between 0 and 1")
    if options.validation_documents is not None and options.validation_documents < 1:
        problems.append("--validation-docs must be at least 1")
    if problems:
        raise UsageError("; ".join(problems), remedy="apr tokenize encode-corpus --help")


def open_encoder(options: EncodeOptions) -> _Encoder:
    """The tokenizer with its special ids; UsageError when an end-of-document token is wanted and it has none."""
    files = read_tokenizer_files(options.tokenizer)
    tokenizer = build_tokenizer(files, where=str(options.tokenizer))
    eos = end_of_document_token(files, tokenizer)
    if eos is None and options.eos_policy is not EosPolicy.NONE:
        raise UsageError(
            "the tokenizer has no end-of-document token",
            where=str(options.tokenizer),
            expected="one of </s>, <|endoftext|>, <eos>, <|eos|>, or a declared eos_token",
            found="none",
            remedy="add one to the tokenizer, or run documents together with --eos-policy none",
        )
    tokenizer.encode_special_tokens = not options.parse_special_tokens
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Encoder(files, tokenizer, eos, unknown_token(files, tokenizer), vocabulary_size(tokenizer))


def document_hash(text: str) -> bytes:
    """16 bytes of blake3 over the UTF-8 text: the identity of a document for splits and overlap checks."""
    from blake3 import blake3

    return blake3(text.encode()).digest(length=DOCUMENT_HASH_BYTES)


def encode_batches(encoder: _Encoder, documents: Iterator[Document]) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its ids, tokenised in parallel batches, in order."""
    batch: list[Document] = []
    characters = 0

    def encoded(batch: Sequence[Document]) -> Iterator[tuple[Document, list[int]]]:
        texts = [document.text for document in batch]
        encodings = encoder.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for document, encoding in zip(batch, encodings, strict=True):
            yield document, encoding.ids

    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield from encoded(batch)
            batch, characters = [], 0
    yield from encoded(batch)


@dataclass
class _Sides:
    accounts: tuple[SideRow, SideRow | None]
    statistics: CorpusStatistics
    text_bytes: int


def _encode_sides(
    options: EncodeOptions,
    encoder: _Encoder,
    files: Sequence[CorpusFile],
    tally: ReadingTally,
    threshold: int | None,
    directory: Path,
    on_document: Callable[[Document], None] | None,
) -> _Sides:
    def writer(folder: Path) -> ShardWriter:
        return ShardWriter(
            folder,
            shard_tokens=options.shard_tokens,
            eos_id=None if options.eos_policy is EosPolicy.NONE or encoder.eos is None else encoder.eos.id,
            is_between=options.eos_policy is EosPolicy.BETWEEN,
            vocabulary_size=encoder.vocabulary_size,
        )

    training = writer(directory)
    validation = None if threshold is None else writer(directory / VALIDATION_FOLDER)
    text_bytes = 0
    documents = read_documents(
        files, content_field=options.content_field, normalization=options.normalization, tally=tally
    )
    try:
        for document, ids in encode_batches(encoder, documents):
            digest = document_hash(document.text)
            if threshold is not None and validation is not None and int.from_bytes(digest, "big") < threshold:
                validation.add(ids, digest)
            else:
                training.add(ids, digest)
                text_bytes += len(document.text.encode())
            if on_document is not None:
                on_document(document)
        accounts = training.close(), None if validation is None else validation.close()
    except BaseException:
        training.abandon()
        if validation is not None:
            validation.abandon()
        raise
    tokens = int(training.counts.sum())
    statistics = CorpusStatistics(
        unknown_ratio=None
        if encoder.unknown is None or not tokens
        else float(training.counts[encoder.unknown.id]) / tokens,
        bytes_per_token=text_bytes / tokens if tokens else None,
        unigram_entropy_bits=unigram_entropy_bits(training.counts),
    )
    return _Sides(accounts, statistics, text_bytes)


def _validation_threshold(options: EncodeOptions, files: Sequence[CorpusFile]) -> int | None:
    """Documents whose hash, read as a number, lies below this go to the validation side; None: no split.

    For a wanted count this is a first pass over the texts that keeps the smallest different hashes.
    """
    if options.validation_fraction is not None:
        return int(options.validation_fraction * HASH_RANGE)
    if options.validation_documents is None:
        return None
    documents = read_documents(
        files, content_field=options.content_field, normalization=options.normalization, tally=ReadingTally()
    )
    different = {int.from_bytes(document_hash(document.text), "big") for document in documents}
    smallest = heapq.nsmallest(options.validation_documents, different)
    return smallest[-1] + 1 if smallest else 0


def _check_sides(options: EncodeOptions, training: SideRow, validation: SideRow | None) -> None:
    for name, side in (("training", training), ("validation", validation)):
        if side is not None and side.total_documents == 0:
            raise RefusedError(
                f"the {name} side of the split is empty",
                where=", ".join(map(str, options.corpora)),
                expected="at least one document on each side",
                found=f"{training.total_documents} training documents, "
                f"{validation.total_documents if validation else 0} validation documents",
                remedy="choose another --validation-fraction, or a number of documents with --validation-docs",
                invariant="INV-CORPUS-SPLIT-001",
            )


def _manifest(
    options: EncodeOptions,
    encoder: _Encoder,
    files: Sequence[CorpusFile],
    tally: ReadingTally,
    sides: _Sides,
    elapsed_s: float,
) -> dict[str, Any]:
    training, validation = sides.accounts
    formats = {file.format.value for file in files}
    beginning = beginning_of_document_token(encoder.files, encoder.tokenizer)
    return {
        "schema": MANIFEST_SCHEMA,
        "tokenizer_dir": str(options.tokenizer),
        "vocab_size": encoder.vocabulary_size,
        "eos_policy": options.eos_policy.value,
        "eos_token_id": None if encoder.eos is None else encoder.eos.id,
        **side_to_json(training),
        "content_field": options.content_field,
        "normalization": options.normalization.value,
        "input_format": formats.pop() if len(formats) == 1 else "mixed",
        "input_files": [str(file.path) for file in files],
        "num_workers": options.workers,
        "elapsed_seconds": elapsed_s,
        "tokenizer_hash": tokenizer_output_hash(encoder.files),
        "bos_token_id": None if beginning is None else beginning.id,
        "unknown_token_id": None if encoder.unknown is None else encoder.unknown.id,
        "special_tokens_in_text": "parsed" if options.parse_special_tokens else "as text",
        "text_bytes": sides.text_bytes,
        "unknown_ratio": sides.statistics.unknown_ratio,
        "bytes_per_token": sides.statistics.bytes_per_token,
        "unigram_entropy_bits": sides.statistics.unigram_entropy_bits,
        "empty_documents": tally.empty_documents,
        "files_not_text": list(tally.not_text),
        "validation_split": _split_to_json(options),
        "validation": None if validation is None else side_to_json(validation),
        "apr_version": __version__,
    }


def _split_to_json(options: EncodeOptions) -> dict[str, Any] | None:
    if options.validation_fraction is None and options.validation_documents is None:
        return None
    return {
        "by": "blake3 of the document text",
        "fraction": options.validation_fraction,
        "documents": options.validation_documents,
    }
