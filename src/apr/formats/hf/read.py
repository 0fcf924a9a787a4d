"""Open a Hugging Face model directory: config, weights (single file or shards), tokenizer, and our record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.errors import DamagedFileError
from apr.formats.base import (
    TOKENIZER_NOT_FETCHED,
    Checkpoint,
    ChecksumVerifier,
    Format,
    IntegrityProblem,
    Stamp,
    TensorEntry,
)
from apr.formats.config_stamps import config_stamps
from apr.formats.damage import damaged
from apr.formats.hf.weights import INDEX_FILE_NAME, SINGLE_FILE_NAME, Weights, open_weights
from apr.formats.json_text import read_bounded_in, read_object_in, without_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_FILE_NAME, Recorded, recorded_from_json
from apr.formats.safetensors.header import METADATA_KEY
from apr.formats.safetensors.read import stamps_in
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES, row_count
from apr.storage.digests import NOTHING_READ, StoredSums
from apr.storage.reading import HeldDirectory

CONFIG_FILE_NAME = "config.json"
GENERATION_CONFIG_FILE_NAME = "generation_config.json"

_FIRST_READ_NAMES = (
    SINGLE_FILE_NAME,
    INDEX_FILE_NAME,
    CONFIG_FILE_NAME,
    GENERATION_CONFIG_FILE_NAME,
    RECORDED_FILE_NAME,
)

LONGEST_CONFIG_BYTES = 16 << 20
LONGEST_RECORD_BYTES = 64 << 20
_LONGEST_TOKENIZER_FILE_BYTES = 64 << 20
"""The largest that are published (vocabularies of 262,144 tokens with their merges) have 34 MB."""

# Enough to count the vocabulary; the rest of the tokenizer is read only when asked for.
_VOCABULARY_FILE_NAMES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "added_tokens.json")


def read_hf_directory(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`; its weight files stay open until `Checkpoint.close`.

    Raises DamagedFileError without weights or `config.json`, and where files contradict themselves or each other in a
    way that leaves the tensors undefined; what leaves them readable is in `Checkpoint.problems`.
    """
    return read_held_directory(HeldDirectory(Path(directory)))


def read_held_directory(directory: HeldDirectory) -> Checkpoint:
    """As `read_hf_directory`, of a directory that is open, here or on another machine; an error closes it."""
    try:
        directory.expect(_FIRST_READ_NAMES)
        weights = open_weights(directory)
        try:
            return _checkpoint(directory, weights)
        except BaseException:
            for file in weights.files:
                file.close()
            raise
    except BaseException:
        directory.close()
        raise


def _checkpoint(directory: HeldDirectory, weights: Weights) -> Checkpoint:
    if not directory.has(CONFIG_FILE_NAME):
        raise _no_config(directory)
    config = without_tagged_floats(read_object_in(directory, CONFIG_FILE_NAME, LONGEST_CONFIG_BYTES))
    recorded = _recorded(directory)
    return Checkpoint(
        path=directory.path,
        format=Format.HF_DIRECTORY,
        files=weights.files,
        tensors=MappingProxyType(dict(weights.tensors)),
        stamps=directory_stamps(config, weights.metadata),
        config=MappingProxyType(config),
        config_place=CONFIG_FILE_NAME,
        weight_metadata=MappingProxyType(dict(weights.metadata)),
        generation_config=_generation_config(directory),
        recorded=recorded,
        tokenizer_files=lambda: _tokenizer_files(directory),
        count_tokenizer_rows=lambda: _tokenizer_rows(directory),
        tokenizer_note=TOKENIZER_NOT_FETCHED if directory.is_remote else None,
        problems=weights.problems,
        verify_checksums=_verifier(weights.tensors, recorded.tensor_digests),
        directory=directory,
    )


def directory_stamps(config: Mapping[str, Any], weight_metadata: Mapping[str, Mapping[str, str]]) -> tuple[Stamp, ...]:
    """What a directory says of itself: in its config, and in the `__metadata__` of its weight files."""
    stamps = list(config_stamps(config, CONFIG_FILE_NAME))
    for name, texts in weight_metadata.items():
        stamps += stamps_in(texts, f"{name} {METADATA_KEY}")
    return tuple(stamps)


def _verifier(tensors: Mapping[str, TensorEntry], digests: Mapping[str, str]) -> ChecksumVerifier:
    def verify(read: Mapping[str, StoredSums] = NOTHING_READ) -> tuple[IntegrityProblem, ...]:
        from apr.formats.digest_check import verify_digests

        return verify_digests(tensors, digests, read)

    return verify


def _generation_config(directory: HeldDirectory) -> Mapping[str, Any] | None:
    if not directory.has(GENERATION_CONFIG_FILE_NAME):
        return None
    values = read_object_in(directory, GENERATION_CONFIG_FILE_NAME, LONGEST_CONFIG_BYTES)
    return MappingProxyType(without_tagged_floats(values))


def _recorded(directory: HeldDirectory) -> Recorded:
    if not directory.has(RECORDED_FILE_NAME):
        return NOTHING_RECORDED
    document = read_object_in(directory, RECORDED_FILE_NAME, LONGEST_RECORD_BYTES)
    return recorded_from_json(document, where=str(directory.path / RECORDED_FILE_NAME))


def _tokenizer_files(directory: HeldDirectory) -> Mapping[str, bytes]:
    return _FilesOnDemand(directory) if directory.is_remote else _read_present(directory, TOKENIZER_FILE_NAMES)


def _tokenizer_rows(directory: HeldDirectory) -> int | None:
    return None if directory.is_remote else row_count(_read_present(directory, _VOCABULARY_FILE_NAMES))


def _read_present(directory: HeldDirectory, names: tuple[str, ...]) -> dict[str, bytes]:
    return {
        name: read_bounded_in(directory, name, _LONGEST_TOKENIZER_FILE_BYTES) for name in names if directory.holds(name)
    }


class _FilesOnDemand(Mapping[str, bytes]):
    """Tokenizer files on another machine: their names cost little, each content is fetched when it is asked for."""

    def __init__(self, directory: HeldDirectory) -> None:
        self._directory = directory
        self._names = directory.names(TOKENIZER_FILE_NAMES)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return read_bounded_in(self._directory, name, _LONGEST_TOKENIZER_FILE_BYTES)


def _no_config(directory: HeldDirectory) -> DamagedFileError:
    return damaged(
        "the directory holds weights but no config, so nothing says what model they are",
        path=directory.path,
        expected=CONFIG_FILE_NAME,
        found=", ".join(directory.names(_FIRST_READ_NAMES))[:200],
        invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        remedy=f"put the {CONFIG_FILE_NAME} of the model these weights come from into the directory",
    )
