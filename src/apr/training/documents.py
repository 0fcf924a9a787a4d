"""Documents of a corpus, one after the other, whatever container they lie in."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import DamagedFileError, InputOutputError, MissingExtraError, shell_word
from apr.training.corpus_files import CorpusFile, InputFormat

PARQUET_BATCH_ROWS = 256


class Normalization(StrEnum):
    """What is done to text before anything else: Unicode NFC, or nothing."""

    NFC = "nfc"
    NONE = "none"


class Document(NamedTuple):
    """One text with the place it was read from: `path`, `path:line` or `path: row 7`."""

    text: str
    place: str


@dataclass
class ReadingTally:
    """What was passed over while reading, so that nothing is left out without a word."""

    bytes_read: int = 0
    empty_documents: int = 0
    not_text: list[str] = field(default_factory=list)


def read_documents(
    files: Sequence[CorpusFile], *, content_field: str, normalization: Normalization, tally: ReadingTally
) -> Iterator[Document]:
    """Every non-empty document of `files`, in order, normalised.

    Text files and files of a source tree are one document each. A file that was found by searching a tree and is not
    UTF-8 is passed over and entered in `tally.not_text`; one that was named, or a damaged line, raises
    DamagedFileError with `path:line`.
    """
    readers = {
        InputFormat.JSONL: lambda file: _jsonl(file.path, content_field),
        InputFormat.PARQUET: lambda file: _parquet(file.path, content_field),
        InputFormat.TEXT: lambda file: _text(file, tally),
    }
    for file in files:
        try:
            for text, place in readers[file.format](file):
                if not text.strip():
                    tally.empty_documents += 1
                    continue
                normal = unicodedata.normalize("NFC", text) if normalization is Normalization.NFC else text
                yield Document(normal, place)
        except OSError as error:
            raise InputOutputError(f"cannot read the corpus: {error.strerror}", where=str(file.path)) from error
        tally.bytes_read += file.size_bytes


def _text(file: CorpusFile, tally: ReadingTally) -> Iterator[tuple[str, str]]:
    content = file.path.read_bytes()
    try:
        yield content.decode("utf-8-sig"), str(file.path)
    except UnicodeDecodeError as error:
        if file.is_from_tree:
            tally.not_text.append(str(file.path))
            return
        raise _damaged(f"{file.path} at byte {error.start}", "UTF-8 text", error.reason) from error


def _jsonl(path: Path, content_field: str) -> Iterator[tuple[str, str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _damaged(place, "one JSON object per line", f"not JSON: {error}") from error
            yield _content(record, content_field, place), place


def _parquet(path: Path, content_field: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet corpora need pyarrow", remedy="pip install 'apr[train]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            if content_field not in table.schema_arrow.names:
                raise _missing_field(str(path), content_field, table.schema_arrow.names)
            row = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[content_field]):
                for value in batch.column(0).to_pylist():
                    place = f"{path}: row {row}"
                    yield _content({content_field: value}, content_field, place), place
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise _damaged(str(path), "a Parquet file", str(error)[:200]) from error


def _content(record: Any, content_field: str, place: str) -> str:
    if not isinstance(record, dict):
        raise _damaged(place, "a JSON object", f"a JSON {type(record).__name__}")
    if content_field not in record:
        raise _missing_field(place, content_field, list(record))
    value = record[content_field]
    if not isinstance(value, str):
        raise _damaged(f"{place}: {content_field}", "text", "null" if value is None else type(value).__name__)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _damaged(f"{place}: {content_field}", "text that UTF-8 can hold", "a lone surrogate")
    return value


def _missing_field(place: str, content_field: str, keys: Sequence[str]) -> DamagedFileError:
    shown = ", ".join(map(repr, keys[:12])) or "no fields"
    return DamagedFileError(
        f"a document has no field {content_field!r}",
        where=place,
        expected=f"the text in {content_field!r}",
        found=shown,
        remedy=f"name the field that holds the text: --content-field {shell_word(keys[0]) if keys else 'NAME'}",
    )


def _damaged(where: str, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "a document cannot be read",
        where=where,
        expected=expected,
        found=found,
        remedy="repair or remove it, then run again",
    )
