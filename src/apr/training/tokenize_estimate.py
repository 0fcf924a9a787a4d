"""What encoding a corpus would give, from a sample of its first documents; nothing is written."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from apr.training.corpus_files import corpus_files
from apr.training.corpus_manifest import TOKEN_BYTES
from apr.training.documents import ReadingTally, read_documents
from apr.training.encode_options import EncodeOptions, check_options
from apr.training.encoder import encode_batches, open_encoder
from apr.training.tokenize_train import empty_corpus


@dataclass(frozen=True, slots=True)
class CorpusEstimate:
    """Measured on the sample: documents, tokens, text bytes. Extrapolated by the bytes of the files: the rest.

    The extrapolation takes a file's bytes for text, so JSON syntax inflates it and Parquet compression deflates it.
    """

    sampled_documents: int
    sampled_tokens: int
    sampled_text_bytes: int
    bytes_per_token: float
    corpus_bytes: int
    estimated_tokens: int
    estimated_shards: int
    estimated_output_bytes: int
    is_whole_corpus: bool

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def estimate_corpus(options: EncodeOptions, sample_documents: int) -> CorpusEstimate:
    """Encode the first `sample_documents` documents and extrapolate; raises as `encode_corpus` does."""
    check_options(options)
    encoder = open_encoder(options)
    files = corpus_files(options.corpora, options.globs)
    tally = ReadingTally()
    documents = read_documents(
        files, content_field=options.content_field, normalization=options.normalization, tally=tally
    )
    count = tokens = text_bytes = 0
    for document, ids in encode_batches(encoder, itertools.islice(documents, sample_documents)):
        count, tokens, text_bytes = count + 1, tokens + len(ids), text_bytes + len(document.text.encode())
    if count == 0:
        raise empty_corpus(options.corpora, tally)
    is_whole = count < sample_documents or next(documents, None) is None
    corpus_bytes = sum(file.size_bytes for file in files)
    estimated = tokens if is_whole else round(tokens / text_bytes * corpus_bytes)
    return CorpusEstimate(
        sampled_documents=count,
        sampled_tokens=tokens,
        sampled_text_bytes=text_bytes,
        bytes_per_token=text_bytes / tokens if tokens else math.nan,
        corpus_bytes=corpus_bytes,
        estimated_tokens=estimated,
        estimated_shards=math.ceil(estimated / options.shard_tokens),
        estimated_output_bytes=estimated * TOKEN_BYTES,
        is_whole_corpus=is_whole,
    )
