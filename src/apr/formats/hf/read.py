"""Open a Hugging Face model directory: config, weights (single file or shards), tokenizer, and our record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.errors import DamagedFileError
from apr.formats.base import Checkpoint, ChecksumVerifier, Format, IntegrityProblem, Stamp, TensorEntry
from apr.formats.config_stamps import config_stamps
from apr.formats.damage import damaged
from apr.formats.hf.weights import Weights, open_weights
from apr.formats.json_text import read_bounded, read_object, without_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_FILE_NAME, Recorded, recorded_from_json
from apr.formats.safetensors.header import METADATA_KEY
from apr.formats.safetensors.read import stamps_in
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES, row_count
from apr.storage.digests import NOTHING_READ, StoredSums
from apr.storage.reading import HeldDirectory

CONFIG_FILE_NAME = "config.json"
GENERATION_CONFIG_FILE_NAME = "generation_config.json"

_LONGEST_CONFIG_BYTES = 16 << 20
_LONGEST_RECORD_BYTES = 64 << 20
_LONGEST_TOKENIZER_FILE_BYTES = 256 << 20

# Enough to count the vocabulary; the rest of the tokenizer is read only when asked for.
_VOCABULARY_FILE_NAMES = ("tokenizer.json", "vocab.json", "vocab.txt", "added_tokens.json")


def read_hf_directory(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`; its weight files stay open until `Checkpoint.close`.

    Raises DamagedFileError without weights or `config.json`, and where files contradict themselves or each other in a
    way that leaves the tensors undefined; what leaves them readable is in `Checkpoint.problems`.
    """
    directory = Path(directory)
    held = HeldDirectory(directory)
    try:
        weights = open_weights(directory)
        try:
            return _checkpoint(directory, weights, held)
        except BaseException:
            for file in weights.files:
                file.close()
            raise
    except BaseException:
        held.close()
        raise


def _checkpoint(directory: Path, weights: Weights, held: HeldDirectory) -> Checkpoint:
    if not os.path.lexists(directory / CONFIG_FILE_NAME):
        raise _no_config(directory)
    config = without_tagged_floats(read_object(directory / CONFIG_FILE_NAME, _LONGEST_CONFIG_BYTES))
    recorded = _recorded(directory / RECORDED_FILE_NAME)
    load_tokenizer = _tokenizer_loader(directory)
    return Checkpoint(
        path=directory,
        format=Format.HF_DIRECTORY,
        files=weights.files,
        tensors=MappingProxyType(dict(weights.tensors)),
        stamps=directory_stamps(config, weights.metadata),
        config=MappingProxyType(config),
        config_place=CONFIG_FILE_NAME,
        weight_metadata=MappingProxyType(dict(weights.metadata)),
        generation_config=_optional_object(directory / GENERATION_CONFIG_FILE_NAME),
        recorded=recorded,
        tokenizer_files=load_tokenizer,
        count_tokenizer_rows=lambda: row_count(_read_present(directory, _VOCABULARY_FILE_NAMES)),
        problems=weights.problems,
        verify_checksums=_verifier(weights.tensors, recorded.tensor_digests),
        directory=held,
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


def _optional_object(path: Path) -> Mapping[str, Any] | None:
    if not os.path.lexists(path):
        return None
    return MappingProxyType(without_tagged_floats(read_object(path, _LONGEST_CONFIG_BYTES)))


def _recorded(path: Path) -> Recorded:
    if not os.path.lexists(path):
        return NOTHING_RECORDED
    return recorded_from_json(read_object(path, _LONGEST_RECORD_BYTES), where=str(path))


def _read_present(directory: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {
        name: read_bounded(directory / name, _LONGEST_TOKENIZER_FILE_BYTES)
        for name in names
        if (directory / name).is_file()
    }


def _tokenizer_loader(directory: Path) -> Callable[[], Mapping[str, bytes]]:
    return lambda: _read_present(directory, TOKENIZER_FILE_NAMES)


def _no_config(directory: Path) -> DamagedFileError:
    return damaged(
        "the directory holds weights but no config, so nothing says what model they are",
        path=directory,
        expected=CONFIG_FILE_NAME,
        found=", ".join(sorted(os.listdir(directory)))[:200],
        invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        remedy=f"put the {CONFIG_FILE_NAME} of the model these weights come from into the directory",
    )
