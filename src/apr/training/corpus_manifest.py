"""The manifest of a directory of token shards: upstream's keys (`pretokenize-bin-v1`), and what they lack.

Upstream's own manifests, which list no shards and no hashes, are read too: the missing parts are None or empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr.errors import DamagedFileError, InputOutputError

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = "pretokenize-bin-v1"
VALIDATION_FOLDER = "validation"
DOCUMENT_HASHES_NAME = "documents.hashes"
DOCUMENT_HASH_BYTES = 16
SHARD_NAME = "shard-{index:05d}.bin"
TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One shard as the manifest lists it; `blake3` is over all its bytes, as hex."""

    name: str
    tokens: int
    documents: int
    blake3: str


@dataclass(frozen=True, slots=True)
class SideRow:
    """One side of a corpus, training or validation.

    document_hashes_blake3: hash of the file `documents.hashes`, which holds 16 bytes of blake3 per document.
    """

    shards: tuple[ShardRow, ...]
    total_tokens: int
    total_documents: int
    eos_tokens: int
    document_hashes_blake3: str | None


@dataclass(frozen=True, slots=True)
class CorpusStatistics:
    """Figures over the training side. unknown_ratio: None for tokenizers without an unknown token.

    bytes_per_token: UTF-8 bytes of text per token, end-of-document tokens not counted. unigram_entropy_bits: of the
    distribution of ids.
    """

    unknown_ratio: float | None
    bytes_per_token: float | None
    unigram_entropy_bits: float


@dataclass(frozen=True, slots=True)
class CorpusManifest:
    """A manifest as read; None where the writer did not say."""

    tokenizer_hash: str | None
    vocabulary_size: int | None
    eos_policy: str | None
    eos_token_id: int | None
    training: SideRow | None
    validation: SideRow | None
    total_tokens: int | None
    shard_count: int | None


def side_to_json(side: SideRow) -> dict[str, Any]:
    """The keys `shards`, `total_tokens`, ... of one side."""
    return {
        "shard_count": len(side.shards),
        "total_tokens": side.total_tokens,
        "total_documents": side.total_documents,
        "eos_token_count": side.eos_tokens,
        "shards": [
            {"name": row.name, "tokens": row.tokens, "documents": row.documents, "blake3": row.blake3}
            for row in side.shards
        ],
        "document_hashes": {
            "file": DOCUMENT_HASHES_NAME,
            "bytes_each": DOCUMENT_HASH_BYTES,
            "blake3": side.document_hashes_blake3,
        },
    }


def read_manifest(directory: Path) -> CorpusManifest | None:
    """The manifest of `directory`, None when there is none; DamagedFileError with the key when it contradicts its
    schema."""
    path = directory / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputOutputError(f"cannot read the manifest: {error.strerror}", where=str(path)) from error
    try:
        document = json.loads(content)
    except ValueError as error:
        raise _damaged(path, "", "JSON", str(error)) from error
    if not isinstance(document, dict) or document.get("schema") != MANIFEST_SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise _damaged(path, "schema", MANIFEST_SCHEMA, repr(found))
    validation = document.get("validation")
    return CorpusManifest(
        tokenizer_hash=_value(path, document, "tokenizer_hash", str),
        vocabulary_size=_value(path, document, "vocab_size", int),
        eos_policy=_value(path, document, "eos_policy", str),
        eos_token_id=_value(path, document, "eos_token_id", int),
        training=_side(path, document) if "shards" in document else None,
        validation=None if validation is None else _side(path, validation),
        total_tokens=_value(path, document, "total_tokens", int),
        shard_count=_value(path, document, "shard_count", int),
    )


def _side(path: Path, document: Any) -> SideRow:
    if not isinstance(document, dict) or not isinstance(document.get("shards"), list):
        raise _damaged(path, "shards", "a list of shards", repr(document)[:80])
    rows = []
    for index, row in enumerate(document["shards"]):
        if not isinstance(row, dict):
            raise _damaged(path, f"shards[{index}]", "an object", repr(row)[:80])
        values = {key: _value(path, row, key, kind) for key, kind in _SHARD_KEYS.items()}
        if None in values.values() or Path(values["name"]).name != values["name"]:
            raise _damaged(path, f"shards[{index}]", "name (no folders), tokens, documents, blake3", repr(row)[:120])
        rows.append(ShardRow(**values))
    hashes = document.get("document_hashes")
    return SideRow(
        shards=tuple(rows),
        total_tokens=_value(path, document, "total_tokens", int) or 0,
        total_documents=_value(path, document, "total_documents", int) or 0,
        eos_tokens=_value(path, document, "eos_token_count", int) or 0,
        document_hashes_blake3=_value(path, hashes, "blake3", str) if isinstance(hashes, dict) else None,
    )


_SHARD_KEYS: Mapping[str, type] = {"name": str, "tokens": int, "documents": int, "blake3": str}


def _value(path: Path, document: Mapping[str, Any], key: str, kind: type) -> Any:
    value = document.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise _damaged(path, key, kind.__name__, repr(value)[:80])
    return value


def _damaged(path: Path, key: str, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the manifest of the corpus cannot be read",
        where=f"{path}: {key}" if key else str(path),
        expected=expected,
        found=found,
        remedy="encode the corpus again with `apr tokenize encode-corpus`",
        invariant="INV-CORPUS-MANIFEST-001",
    )
