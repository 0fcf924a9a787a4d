"""A tokenizer made ready to encode a corpus, and documents run through it in parallel batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr.errors import UsageError
from apr.loading.tokenizer import (
    NamedToken,
    build_tokenizer,
    end_of_document_token,
    read_tokenizer_files,
    unknown_token,
    vocabulary_size,
)
from apr.training.documents import Document
from apr.training.encode_options import EncodeOptions, EosPolicy

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Text handed to the tokenizer at once: enough for all its threads, little enough to keep memory flat.
BATCH_CHARACTERS = 2_000_000
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Encoder:
    """files: of the tokenizer, by name. eos, unknown: None where it has none."""

    files: dict[str, bytes]
    tokenizer: Tokenizer
    eos: NamedToken | None
    unknown: NamedToken | None
    vocabulary_size: int


def open_encoder(options: EncodeOptions) -> Encoder:
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
    return Encoder(files, tokenizer, eos, unknown_token(files, tokenizer), vocabulary_size(tokenizer))


def encode_batches(encoder: Encoder, documents: Iterator[Document]) -> Iterator[tuple[Document, list[int]]]:
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
