"""Encode a corpus into token shards, with the account that `apr pretrain` checks before it trains on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr import __version__
from apr.loading.tokenizer import beginning_of_document_token, tokenizer_output_hash
from apr.training.corpus_files import CorpusFile, corpus_files
from apr.training.corpus_manifest import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    VALIDATION_FOLDER,
    CorpusStatistics,
    SideRow,
    side_to_json,
)
from apr.training.corpus_statistics import unigram_entropy_bits
from apr.training.document_split import check_sides, document_hash, split_to_json, validation_threshold
from apr.training.documents import Document, ReadingTally, read_documents
from apr.training.encode_options import EncodeOptions, EosPolicy, check_options
from apr.training.encoder import Encoder, encode_batches, open_encoder
from apr.training.output_directory import new_directory
from apr.training.shard_writer import ShardWriter
from apr.training.tokenize_train import empty_corpus

TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True, slots=True)
class EncodedCorpus:
    """What was written: the manifest as a document, and where."""

    output: Path
    manifest: dict[str, Any]


def encode_corpus(options: EncodeOptions, on_document: Callable[[Document], None] | None = None) -> EncodedCorpus:
    """Encode `options.corpora` into `options.output`, which appears whole or not at all.

    Raises UsageError for contradicting options, RefusedError for an empty corpus or an empty side of the split, and
    what reading the corpus or the tokenizer raises.
    """
    check_options(options)
    encoder = open_encoder(options)
    files = corpus_files(options.corpora, options.globs)
    tally = ReadingTally()
    threshold = validation_threshold(options, files)
    started_s = time.perf_counter()
    with new_directory(options.output) as directory:
        sides = _encode_sides(options, encoder, files, tally, threshold, directory, on_document)
        training, validation = sides.accounts
        if training.total_documents + (validation.total_documents if validation else 0) == 0:
            raise empty_corpus(options.corpora, tally)
        check_sides(options, training, validation)
        (directory / TOKENIZER_FOLDER).mkdir()
        for name, content in encoder.files.items():
            (directory / TOKENIZER_FOLDER / name).write_bytes(content)
        manifest = _manifest(options, encoder, files, tally, sides, time.perf_counter() - started_s)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return EncodedCorpus(options.output, manifest)


@dataclass
class _Sides:
    accounts: tuple[SideRow, SideRow | None]
    statistics: CorpusStatistics
    text_bytes: int


def _encode_sides(
    options: EncodeOptions,
    encoder: Encoder,
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


def _manifest(
    options: EncodeOptions,
    encoder: Encoder,
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
        "validation_split": split_to_json(options),
        "validation": None if validation is None else side_to_json(validation),
        "apr_version": __version__,
    }
