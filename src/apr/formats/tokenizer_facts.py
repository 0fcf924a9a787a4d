"""What the files of a recorded tokenizer say: how many rows of an embedding it needs, its vocabulary and merges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
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

_SPECIAL_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_SPECIAL_TOKEN_LISTS = frozenset({"additional_special_tokens", "extra_special_tokens"})
_LONGEST_ID = 10

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
    """Rows an embedding needs for every id the tokenizer gives, at a fraction of the cost of `read_vocabulary`.

    With `tokenizer.json` the tokens are counted that `tokenizer_config.json` adds when it is loaded: those of
    `added_tokens_decoder` at their ids, and special tokens that are in no vocabulary behind the last id.
    """
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
    config = _parsed(files.get("tokenizer_config.json", b"{}"))
    if not ids or not isinstance(config, dict):
        return max(ids, default=-1) + 1 or None
    decoder = config.get("added_tokens_decoder")
    decoded = decoder if isinstance(decoder, dict) else {}
    ids += [int(key) for key in decoded if key.isdecimal() and len(key) < _LONGEST_ID]
    wanted = {text for text in _special_tokens(config) if text}
    if wanted:
        wanted -= _texts(pieces) | _texts(added) | _texts(list(decoded.values()))
    return max(ids) + 1 + len(wanted)


def _special_tokens(config: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the special tokens that a tokenizer config names; transformers adds those it does not find."""
    for name, value in config.items():
        if name in _SPECIAL_TOKENS:
            yield from _texts([value])
        elif name in _SPECIAL_TOKEN_LISTS and isinstance(value, list):
            yield from _texts(value)


def _texts(tokens: object) -> set[str]:
    """The texts of tokens: keys of a vocabulary, pieces with a score, plain texts, or objects with a `content`."""
    if isinstance(tokens, dict):
        return {text for text in tokens if isinstance(text, str)}
    found = set()
    for token in tokens if isinstance(tokens, list) else ():
        text = token[0] if isinstance(token, list) and token else token
        text = text.get("content") if isinstance(text, dict) else text
        if isinstance(text, str):
            found.add(text)
    return found


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
