"""Open a GGUF file as a checkpoint: tensors under their names in the file, its architecture as the stamp."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.formats.base import Checkpoint, Format, IntegrityProblem, Stamp, StampKey
from apr.formats.gguf.header import Header
from apr.formats.gguf.layout import ARCHITECTURE_KEY, HISTORY_KEY, TOKENS_KEY, is_padding
from apr.formats.gguf.parts import read_parts
from apr.formats.gguf.settings import architecture_of, typed_settings
from apr.formats.gguf.values import Array
from apr.formats.json_text import is_nested_too_deeply
from apr.formats.recorded import NOTHING_RECORDED, Recorded
from apr.storage.reading import SourceFile

MOST_ELEMENTS_READ = 256
MOST_BYTES_READ = 16 << 10


class Metadata(Mapping[str, Any]):
    """The keys of a GGUF file without padding, and the header they were read from.

    Short arrays of numbers and texts are lists, long ones stay an `Array`, which reads itself when it is looked into.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self._values = {pair.key: _plain(pair.value) for pair in header.pairs if not is_padding(pair.key)}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_gguf(path: Path) -> Checkpoint:
    """The checkpoint in the GGUF file `path`, or in the files it is a part of, from headers alone.

    The data of quantised tensors is described and not decoded. Raises DamagedFileError where the header contradicts
    itself or the file's size, and for big-endian files and versions that are not read.
    """
    return gguf_in(SourceFile(Path(path)))


def gguf_in(file: SourceFile) -> Checkpoint:
    """As `read_gguf`, of a file that is open, here or on another machine; an error closes it."""
    try:
        model = read_parts(file)
    except BaseException:
        file.close()
        raise
    first = model.parts[0]
    metadata = Metadata(first.header)
    recorded, problems = _recorded(first.file, metadata)
    return Checkpoint(
        path=first.file.path,
        format=Format.GGUF,
        files=tuple(part.file for part in model.parts),
        tensors=MappingProxyType(model.tensors),
        stamps=stamps_in(metadata),
        config=None,
        config_place=None,
        typed=MappingProxyType(typed_settings(metadata)),
        metadata=metadata,
        recorded=recorded,
        count_tokenizer_rows=lambda: token_count(metadata),
        problems=(*(each for part in model.parts for each in part.header.problems), *problems, *model.problems),
    )


def stamps_in(metadata: Mapping[str, Any]) -> tuple[Stamp, ...]:
    """The identity stamp in the keys of a GGUF file."""
    architecture = architecture_of(metadata)
    if architecture is None:
        return ()
    return (Stamp(StampKey.GGUF_ARCHITECTURE, architecture, ARCHITECTURE_KEY),)


def token_count(metadata: Mapping[str, Any]) -> int | None:
    """Tokens of the vocabulary in the file, None without one."""
    tokens = metadata.get(TOKENS_KEY)
    return len(tokens) if isinstance(tokens, (Array, list)) else None


def parsed_history(text: object) -> list[dict[str, Any]] | None:
    """The history in the text that holds it; None when it is no JSON list of objects."""
    try:
        entries = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    is_right = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    is_right = is_right and not is_nested_too_deeply(entries)
    return entries if is_right else None


def _plain(value: Any) -> Any:
    is_short = isinstance(value, Array) and value.element_count <= MOST_ELEMENTS_READ
    return value.values() if is_short and value.size_bytes <= MOST_BYTES_READ else value


def _recorded(file: SourceFile, metadata: Mapping[str, Any]) -> tuple[Recorded, list[IntegrityProblem]]:
    if HISTORY_KEY not in metadata:
        return NOTHING_RECORDED, []
    entries = parsed_history(metadata[HISTORY_KEY])
    if entries is not None:
        return Recorded(history=tuple(MappingProxyType(entry) for entry in entries)), []
    problem = IntegrityProblem(
        "the history of stamps cannot be read",
        f"{file.path}: {HISTORY_KEY}",
        "a JSON list of objects",
        f"{metadata[HISTORY_KEY]!r:.80}",
    )
    return NOTHING_RECORDED, [problem]
