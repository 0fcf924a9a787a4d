"""What the files of a recorded tokenizer say: how many rows of an embedding it needs, its vocabulary and merges."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

# Files that make up a Hugging Face tokenizer; the order is the one they are listed in.
TOKENIZER_FILE_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "chat_template.json",
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")


def is_plain_file_name(name: str) -> bool:
    """Whether `name`, which may come from an untrusted file, stays inside the directory it is written to."""
    return _PLAIN_NAME.fullmatch(name) is not None


class Vocabulary(NamedTuple):
    """Tokens by id, gaps and added tokens included. merges: `left right` lines, empty when there are none."""

    ids: Mapping[int, str]
    merges: tuple[str, ...]
    model_type: str | None

    @property
    def row_count(self) -> int:
        """Rows an embedding needs for every id: the largest id plus one."""
        return max(self.ids, default=-1) + 1


def read_vocabulary(files: Mapping[str, bytes]) -> Vocabulary | None:
    """The vocabulary in `tokenizer.json`, else in `vocab.json` or `vocab.txt`; None when no file shows one.

    Unreadable text counts as no vocabulary: the tokenizer library has the last word on its own files.
    """
    if "tokenizer.json" in files:
        return _from_tokenizer_json(_parsed(files["tokenizer.json"]))
    ids: dict[int, str] = {}
    _add(ids, _parsed(files.get("vocab.json", b"{}")))
    if not ids and "vocab.txt" in files:
        ids.update(enumerate(files["vocab.txt"].decode(errors="replace").splitlines()))
    if not ids:
        return None
    _add(ids, _parsed(files.get("added_tokens.json", b"{}")))
    merges = files.get("merges.txt", b"").decode(errors="replace").split("\n")
    if merges[0].startswith("#version"):
        del merges[0]
    kept = tuple(line.rstrip("\r") for line in merges if line.strip())
    return Vocabulary(ids, kept, "BPE" if kept else None)


def row_count(files: Mapping[str, bytes]) -> int | None:
    """`read_vocabulary(files).row_count` at a fraction of the cost: nothing but the largest id is looked for."""
    if "tokenizer.json" not in files:
        vocabulary = read_vocabulary(files)
        return None if vocabulary is None else vocabulary.row_count
    document = _parsed(files["tokenizer.json"])
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(model, dict):
        return None
    pieces, added = model.get("vocab"), document.get("added_tokens")
    if isinstance(pieces, list):
        ids = [len(pieces) - 1]
    else:
        ids = [number for number in pieces.values() if _is_id(number)] if isinstance(pieces, dict) else []
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and _is_id(number := token.get("id")):
            ids.append(number)
    return max(ids, default=-1) + 1 or None


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _from_tokenizer_json(document: object) -> Vocabulary | None:
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(model, dict):
        return None
    ids: dict[int, str] = {}
    pieces = model.get("vocab")
    if isinstance(pieces, list):  # Unigram: [piece, score] by position.
        ids.update((number, str(piece[0])) for number, piece in enumerate(pieces) if isinstance(piece, list) and piece)
    else:
        _add(ids, pieces)
    added = document.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            _add(ids, {token.get("content"): token.get("id")})
    merges = model.get("merges")
    lines = tuple(_merge_line(merge) for merge in merges) if isinstance(merges, list) else ()
    model_type = model.get("type")
    return Vocabulary(ids, lines, model_type if isinstance(model_type, str) else None) if ids else None


def _merge_line(merge: Any) -> str:
    return " ".join(map(str, merge)) if isinstance(merge, list) else str(merge)


def _add(ids: dict[int, str], token_to_id: object) -> None:
    if not isinstance(token_to_id, dict):
        return
    for token, number in token_to_id.items():
        if isinstance(token, str) and _is_id(number):
            ids[number] = token


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
