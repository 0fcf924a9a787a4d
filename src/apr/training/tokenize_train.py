"""Train a byte-level BPE tokenizer and leave it in files that transformers opens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import MissingExtraError, RefusedError, UsageError
from apr.loading.tokenizer import read_tokenizer_files, tokenizer_output_hash
from apr.training.corpus_files import corpus_files
from apr.training.documents import Document, Normalization, ReadingTally, read_documents
from apr.training.output_directory import new_directory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_DOCUMENT = "<|endoftext|>"
BYTE_COUNT = 256
SMALLEST_VOCABULARY = BYTE_COUNT + 1
DEFAULT_VOCABULARY = 50_257


@dataclass(frozen=True, slots=True)
class TokenizerTrainingOptions:
    """What `apr tokenize train` is asked for; defaults as upstream's (`apr-v2` §4.10)."""

    corpora: tuple[Path, ...]
    output: Path
    vocabulary_size: int = DEFAULT_VOCABULARY
    min_frequency: int = 2
    normalization: Normalization = Normalization.NFC
    content_field: str = "content"
    globs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """What was trained. vocabulary_size may be below the request when the corpus holds too few pairs."""

    output: Path
    vocabulary_size: int
    requested_vocabulary_size: int
    min_frequency: int
    normalization: Normalization
    files: int
    documents: int
    lines: int
    files_not_text: tuple[str, ...]
    training_seconds: float
    tokenizer_hash: str

    def to_json(self) -> dict[str, Any]:
        return {
            "algorithm": "byte-level BPE",
            "vocab_size": self.vocabulary_size,
            "requested_vocab_size": self.requested_vocabulary_size,
            "corpus_lines": self.lines,
            "corpus_files": self.files,
            "corpus_documents": self.documents,
            "files_not_text": list(self.files_not_text),
            "min_frequency": self.min_frequency,
            "normalization": self.normalization.value,
            "training_seconds": self.training_seconds,
            "output_dir": str(self.output),
            "tokenizer_hash": self.tokenizer_hash,
        }


def train_tokenizer(
    options: TokenizerTrainingOptions, on_document: Callable[[Document], None] | None = None
) -> TrainedTokenizer:
    """Train on `options.corpora` and write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.

    The output directory appears whole or not at all. Raises UsageError for a vocabulary below 257 (256 bytes and the
    end-of-document token), RefusedError (INV-CORPUS-EMPTY-001) for a corpus without text, and what reading raises.
    """
    if options.vocabulary_size < SMALLEST_VOCABULARY:
        raise UsageError(
            "the vocabulary is too small for byte-level BPE",
            expected=f"at least {SMALLEST_VOCABULARY} (256 bytes and {END_OF_DOCUMENT})",
            found=str(options.vocabulary_size),
            remedy=f"raise --vocab-size to {SMALLEST_VOCABULARY} or more",
        )
    files = corpus_files(options.corpora, options.globs)
    tally, count = ReadingTally(), _Count()

    def texts() -> Iterator[str]:
        documents = read_documents(
            files, content_field=options.content_field, normalization=options.normalization, tally=tally
        )
        for document in documents:
            count.documents += 1
            count.lines += document.text.count("\n") + 1
            if on_document is not None:
                on_document(document)
            yield document.text

    with new_directory(options.output) as directory:
        started_s = time.perf_counter()
        tokenizer = _train(texts(), options)
        elapsed_s = time.perf_counter() - started_s
        if count.documents == 0:
            raise empty_corpus(options.corpora, tally)
        _write_files(tokenizer, directory)
        tokenizer_hash = tokenizer_output_hash(read_tokenizer_files(directory))
    return TrainedTokenizer(
        output=options.output,
        vocabulary_size=tokenizer.get_vocab_size(with_added_tokens=True),
        requested_vocabulary_size=options.vocabulary_size,
        min_frequency=options.min_frequency,
        normalization=options.normalization,
        files=len(files),
        documents=count.documents,
        lines=count.lines,
        files_not_text=tuple(tally.not_text),
        training_seconds=elapsed_s,
        tokenizer_hash=tokenizer_hash,
    )


def empty_corpus(corpora: tuple[Path, ...], tally: ReadingTally) -> RefusedError:
    """The refusal of a corpus whose files hold no text."""
    passed_over = f", {len(tally.not_text)} files that are not UTF-8" if tally.not_text else ""
    return RefusedError(
        "the corpus is empty: no document holds text",
        where=", ".join(map(str, corpora)),
        expected="at least one document",
        found=f"{tally.empty_documents} empty documents{passed_over}",
        remedy="name a corpus with text",
        invariant="INV-CORPUS-EMPTY-001",
    )


@dataclass
class _Count:
    documents: int = 0
    lines: int = 0


def _train(texts: Iterator[str], options: TokenizerTrainingOptions) -> Tokenizer:
    try:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise MissingExtraError("training a tokenizer needs tokenizers", remedy="pip install 'apr[train]'") from error
    tokenizer = Tokenizer(models.BPE())
    if options.normalization is Normalization.NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary_size,
        min_frequency=options.min_frequency,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def _write_files(tokenizer: Tokenizer, directory: Path) -> None:
    text = tokenizer.to_str(pretty=True)
    model = json.loads(text)["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_DOCUMENT,
        "eos_token": END_OF_DOCUMENT,
        "clean_up_tokenization_spaces": False,
    }
    contents = {
        "tokenizer.json": text,
        "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + merges,
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
    for name, content in contents.items():
        (directory / name).write_text(content, encoding="utf-8")
