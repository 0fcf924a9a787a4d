"""A tokenizer inside an `.apr`: its files unchanged for us, and upstream's `tokenizer.*` keys for other readers.

Text files stand in the metadata while they are small; large or binary ones as U8 tensors, which upstream ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.dtypes import DType
from apr.formats.tokenizer_facts import Vocabulary, is_plain_file_name, read_vocabulary, row_count

if TYPE_CHECKING:
    from apr.formats.writing import TensorToWrite

FILES_KEY = "hf_tokenizer_files"
TENSOR_PREFIX = "__apr__.tokenizer/"

# Above this the metadata would take long to read at every start.
MOST_TEXT_BYTES = 4 << 20
_MOST_UPSTREAM_BYTES = 6 << 20


def tokenizer_metadata(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The metadata keys that record `files` (name to bytes); pair with `tokenizer_tensors` of the same files."""
    texts, _ = _split(files)
    vocabulary = read_vocabulary(files)
    metadata: dict[str, Any] = {FILES_KEY: texts} if texts else {}
    return metadata | ({} if vocabulary is None else _upstream_keys(vocabulary))


def tokenizer_tensors(files: Mapping[str, bytes]) -> list[TensorToWrite]:
    """The U8 tensors for those of `files` that do not go into the metadata."""
    from apr.formats.writing import tensor_from_bytes

    _, blobs = _split(files)
    return [tensor_from_bytes(TENSOR_PREFIX + name, DType.U8, (len(data),), data) for name, data in blobs.items()]


def tokenizer_loader(metadata: Mapping[str, Any], entries: Iterable[TensorEntry]) -> Callable[[], Mapping[str, bytes]]:
    """A function that returns the recorded files (name to bytes) of an opened `.apr`, under plain names only."""
    recorded = metadata.get(FILES_KEY)
    texts = recorded if isinstance(recorded, Mapping) else {}
    blobs = [(entry.name.removeprefix(TENSOR_PREFIX), entry) for entry in entries]

    def load() -> Mapping[str, bytes]:
        files = {name: text.encode(errors="surrogatepass") for name, text in texts.items() if isinstance(text, str)}
        files.update((name, entry.read_bytes()) for name, entry in blobs)
        return {name: data for name, data in files.items() if is_plain_file_name(name)}

    return load


def tokenizer_problems(
    path: Path, metadata: Mapping[str, Any], entries: Iterable[TensorEntry]
) -> list[IntegrityProblem]:
    """Recorded files that cannot be what they are said to be: names that lead elsewhere, values that are no text."""
    recorded = metadata.get(FILES_KEY)
    texts: Mapping[str, Any] = recorded if isinstance(recorded, Mapping) else {}
    where = f"{path}: {FILES_KEY}"
    problems = []
    if recorded is not None and not isinstance(recorded, Mapping):
        found = f"{recorded!r:.80}"
        problems.append(IntegrityProblem("not a JSON object", where, "an object of file names and texts", found))
    for name in (*texts, *(entry.name.removeprefix(TENSOR_PREFIX) for entry in entries)):
        if not is_plain_file_name(name):
            what = "a recorded tokenizer file has a name that is no plain file name"
            problems.append(IntegrityProblem(what, where, "a name like tokenizer.json", f"{name!r:.80}"))
        elif not isinstance(texts.get(name, ""), str):
            what = "a recorded tokenizer file is no text"
            problems.append(IntegrityProblem(what, f"{where}: {name}", "a text", f"{texts[name]!r:.80}"))
    return problems


def recorded_vocabulary_size(metadata: Mapping[str, Any], load: Callable[[], Mapping[str, bytes]]) -> int | None:
    """Embedding rows the recorded tokenizer needs; None when the file records none.

    The largest of what the lossless files, upstream's vocabulary and its `tokenizer.vocab_size` say: a key that says
    too little must not hide ids the model has no row for.
    """
    claimed = metadata.get("tokenizer.vocab_size")
    tokens = metadata.get("tokenizer.vocabulary")
    sizes = [row_count(load())]
    if isinstance(tokens, list):
        sizes.append(len(tokens))
    if isinstance(claimed, int) and not isinstance(claimed, bool):
        sizes.append(claimed)
    return max((size for size in sizes if size is not None), default=None)


def _split(files: Mapping[str, bytes]) -> tuple[dict[str, str], dict[str, bytes]]:
    texts: dict[str, str] = {}
    blobs: dict[str, bytes] = {}
    for name, data in files.items():
        try:
            texts[name] = data.decode()
        except UnicodeDecodeError:
            blobs[name] = data
    if sum(len(files[name]) for name in texts) > MOST_TEXT_BYTES:
        return {}, dict(files)
    return texts, blobs


def _upstream_keys(vocabulary: Vocabulary) -> dict[str, Any]:
    """Upstream's keys, with a filler in gaps, so that position stays id (the form llama.cpp uses for such rows)."""
    keys: dict[str, Any] = {"tokenizer.vocab_size": vocabulary.row_count}
    if vocabulary.model_type is not None:
        keys["tokenizer.model_type"] = vocabulary.model_type
    text_bytes = sum(len(token) for token in vocabulary.ids.values()) + sum(map(len, vocabulary.merges))
    is_dense_enough = vocabulary.row_count <= 2 * len(vocabulary.ids)
    if text_bytes <= _MOST_UPSTREAM_BYTES and is_dense_enough:
        keys["tokenizer.vocabulary"] = [
            vocabulary.ids.get(number, f"[PAD{number}]") for number in range(vocabulary.row_count)
        ]
        if vocabulary.merges:
            keys["tokenizer.merges"] = list(vocabulary.merges)
    return keys
