"""Whether the recorded tokenizer could be used with the model: it shows its tokens, and their ids fit the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from apr.formats.base import Checkpoint, Format
from apr.formats.tokenizer_facts import read_vocabulary

_TOKENS_KEYS = {Format.GGUF: "tokenizer.ggml.tokens"}
"""Where a container that embeds no tokenizer files lists its tokens, if not where APR metadata does."""


class RecordedTokenizer(NamedTuple):
    """What the recorded tokenizer shows.

    file_names: recorded files. tokens: token by id, empty when none can be read. row_count: embedding rows that it
    needs (largest id plus one), None when nothing tells. problem: why it is not usable, None when it is.
    """

    file_names: tuple[str, ...]
    tokens: Mapping[int, str]
    row_count: int | None
    problem: str | None


def recorded_tokenizer(checkpoint: Checkpoint, model_rows: int | None) -> RecordedTokenizer:
    """The tokenizer recorded in `checkpoint`, held against `model_rows` embedding rows (None: not known)."""
    files = checkpoint.tokenizer_files()
    vocabulary = read_vocabulary(files)
    tokens: Mapping[int, str] = {} if vocabulary is None else vocabulary.ids
    embedded = checkpoint.metadata.get(_TOKENS_KEYS.get(checkpoint.format, "tokenizer.vocabulary"))
    if not files and isinstance(embedded, Sequence) and not isinstance(embedded, str):
        tokens = {number: token for number, token in enumerate(embedded) if isinstance(token, str)}
    claimed = checkpoint.metadata.get("tokenizer.vocab_size")
    sizes = [max(tokens, default=-1) + 1, claimed if isinstance(claimed, int) else 0]
    row_count = max(sizes) or None
    problem = _problem(bool(files), bool(tokens), row_count, model_rows)
    return RecordedTokenizer(tuple(sorted(files)), tokens, row_count, problem)


def _problem(has_files: bool, has_tokens: bool, row_count: int | None, model_rows: int | None) -> str | None:
    if not has_tokens and not has_files:
        return "no tokenizer is recorded" if row_count is None else "a vocabulary size is recorded, but no tokens"
    if not has_tokens:
        return "the recorded tokenizer files show no vocabulary"
    if model_rows is None:
        return "the number of embedding rows is not known"
    if row_count is not None and row_count > model_rows:
        return f"the tokenizer needs {row_count:,} embedding rows, the model has {model_rows:,}"
    return None
