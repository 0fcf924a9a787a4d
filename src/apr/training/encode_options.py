"""What encoding a corpus is asked for, checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apr.errors import UsageError
from apr.training.documents import Normalization


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
