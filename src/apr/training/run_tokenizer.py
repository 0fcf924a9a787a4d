"""The tokenizer of a run: its files, the rows it needs, and the hash of what it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apr.loading.tokenizer import (
    beginning_of_document_token,
    build_tokenizer,
    end_of_document_token,
    read_tokenizer_files,
    tokenizer_output_hash,
    vocabulary_size,
)


@dataclass(frozen=True)
class RunTokenizer:
    """The tokenizer of a run. rows: embedding rows it needs."""

    files: dict[str, bytes]
    rows: int
    output_hash: str
    bos_id: int | None
    eos_id: int | None


def read_run_tokenizer(directory: Path) -> RunTokenizer:
    """The tokenizer in `directory`; raises as reading and building it do."""
    files = read_tokenizer_files(directory)
    tokenizer = build_tokenizer(files, where=str(directory))
    end, beginning = end_of_document_token(files, tokenizer), beginning_of_document_token(files, tokenizer)
    return RunTokenizer(
        files=files,
        rows=vocabulary_size(tokenizer),
        output_hash=tokenizer_output_hash(files),
        bos_id=None if beginning is None else beginning.id,
        eos_id=None if end is None else end.id,
    )
