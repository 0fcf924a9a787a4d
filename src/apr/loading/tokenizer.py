"""Tokenizers as files: read losslessly, built once, compared by what they put out.

The files are kept byte for byte (they travel inside checkpoints); two of them are the same tokenizer when they encode
the same text to the same ids, whatever the files look like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import DamagedFileError, InputOutputError, MissingExtraError, NotFoundError
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How model families spell "this document ends here", most specific first (upstream's list, apr-v2 §5, then ours).
END_OF_DOCUMENT_TOKENS = ("</s>", "<|endoftext|>", "<eos>", "<|eos|>", "<|end_of_text|>", "<|im_end|>")

_PIECES = (
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX! 0123456789 3.14159e-10 1,000,000\n",
    "def forward(self, x: Tensor, *, eps=1e-6) -> Tensor:\n    return x * torch.rsqrt(x.pow(2).mean(-1) + eps)\n\n",
    "\tif (a != b && c <= d || !e) { return a[i++] ^ ~b << 3; } // comment\r\n",
    "It's we'll they've I'd you're don't CAN'T; \"quoted\" 'single' (round) [square] {curly} <tag attr='1'/>\n",
    "   three spaces,     five,        eight,\n\n\n\nfour newlines, trailing   \n",
    "Größe, naïve façade, Ærøskøbing, žluťoučký kůň; e\u0301 decomposed, ﬁ ligature, ½ × ² ≠ √\n",
    "Съешь же ещё этих мягких французских булок. Η ταχεία αλεπού. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก\n",
    "いろはにほへと 色は匂へど 我能吞下玻璃而不伤身体 다람쥐 헌 쳇바퀴에 타고파 🦊👩‍👩‍👧‍👦🏳️‍🌈\n",
    "https://example.org/a?b=c&d=%20e#f user@example.org /usr/lib/python3 C:\\temp\\x.txt 2026-11-22T10:00:00Z\n",
    "import os, sys\nclass Foo(Bar):\n    '''doc'''\n    def __init__(self):\n        super().__init__()\n",
    "<|endoftext|><s></s><|im_start|>user<|im_end|>[CLS][SEP]<pad><unk>\n",
)
REFERENCE_TEXT = "".join(_PIECES) + "".join(chr(code) for code in range(0x20, 0x250)) + "\u200b\u00a0\ufeff\u2028"


class NamedToken(NamedTuple):
    """A token by text and id."""

    text: str
    id: int


def read_tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The tokenizer files of `directory` by name, byte for byte.

    Raises NotFoundError when the directory does not exist or holds neither `tokenizer.json` nor `vocab.json` with
    `merges.txt`, InputOutputError when one cannot be read.
    """
    if not directory.is_dir():
        raise NotFoundError(
            "no such tokenizer directory", where=str(directory), remedy="check the path of the tokenizer"
        )
    files: dict[str, bytes] = {}
    for name in TOKENIZER_FILE_NAMES:
        path = directory / name
        if path.is_file():
            try:
                files[name] = path.read_bytes()
            except OSError as error:
                raise InputOutputError(f"cannot read the tokenizer file: {error.strerror}", where=str(path)) from error
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= set(files):
        raise NotFoundError(
            "this directory holds no tokenizer",
            where=str(directory),
            expected="tokenizer.json, or vocab.json with merges.txt",
            found=", ".join(sorted(files)) or "none of the known tokenizer files",
            remedy="save one there with transformers' `tokenizer.save_pretrained(directory)`",
        )
    return files


def build_tokenizer(files: Mapping[str, bytes], *, where: str = "the tokenizer") -> Tokenizer:
    """The tokenizer these files describe; `tokenizer.json` first, else byte-level BPE from `vocab.json`, `merges.txt`.

    Raises DamagedFileError naming the file when one cannot be read as a tokenizer.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "this needs the tokenizers library, which is not installed", remedy="pip install 'apr[train]'"
        ) from error
    if "tokenizer.json" in files:
        try:  # tokenizers raises bare Exception for every kind of damage
            return Tokenizer.from_str(files["tokenizer.json"].decode())
        except Exception as error:
            raise _damaged(f"{where}: tokenizer.json", str(error)) from error
    vocabulary = _json_object(files, "vocab.json", where)
    try:
        lines = files["merges.txt"].decode().splitlines()
        header = 1 if lines and lines[0].startswith("#version") else 0
        merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines[header:] if line)]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        added = _added_tokens(files, where)
    except Exception as error:
        raise _damaged(f"{where}: vocab.json and merges.txt", str(error)) from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = [token for token in END_OF_DOCUMENT_TOKENS if token in vocabulary]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*known, *added]])
    return tokenizer


def tokenizer_output_hash(files: Mapping[str, bytes]) -> str:
    """`blake3:<hex>` over the ids that the tokenizer of `files` gives for REFERENCE_TEXT and over their decoding.

    Equal for the same tokenizer saved in another form or with added tokens that ordinary text does not use; different
    as soon as merges, ids, normalisation or pre-tokenisation differ on the text. Special tokens are not added.
    """
    from blake3 import blake3

    tokenizer = build_tokenizer(files)
    ids = tokenizer.encode(REFERENCE_TEXT, add_special_tokens=False).ids
    digest = blake3(b"apr.tokenizer-output/1\n")
    digest.update(json.dumps(ids).encode())
    digest.update(tokenizer.decode(ids, skip_special_tokens=False).encode())
    return "blake3:" + digest.hexdigest()


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows an embedding needs for this tokenizer: highest id plus one, added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def end_of_document_token(files: Mapping[str, bytes], tokenizer: Tokenizer) -> NamedToken | None:
    """The token that ends a document: the declared `eos_token` when it is one of the known spellings, else the first
    known spelling in the vocabulary, else the declared one, else None."""
    declared = declared_token(files, "eos_token")
    candidates: list[str | None] = [declared] if declared in END_OF_DOCUMENT_TOKENS else []
    candidates += [*END_OF_DOCUMENT_TOKENS, declared]
    return _first_known(tokenizer, candidates)


def beginning_of_document_token(files: Mapping[str, bytes], tokenizer: Tokenizer) -> NamedToken | None:
    """The declared `bos_token`, None when there is none."""
    return _first_known(tokenizer, [declared_token(files, "bos_token")])


def unknown_token(files: Mapping[str, bytes], tokenizer: Tokenizer) -> NamedToken | None:
    """The token that stands for text outside the vocabulary; None for tokenizers that need none (byte level).

    A declared `unk_token` that equals the end-of-document token (GPT-2 style) never stands for unknown text.
    """
    from_model = getattr(tokenizer.model, "unk_token", None)
    declared = declared_token(files, "unk_token")
    if declared == declared_token(files, "eos_token"):
        declared = None
    return _first_known(tokenizer, [from_model, declared])


def declared_token(files: Mapping[str, bytes], role: str) -> str | None:
    """The text of `eos_token`, `bos_token`, ... in `tokenizer_config.json` or `special_tokens_map.json`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = _json_object(files, name, "the tokenizer").get(role) if name in files else None
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    return None


def _first_known(tokenizer: Tokenizer, texts: list[str | None]) -> NamedToken | None:
    for text in texts:
        token_id = tokenizer.token_to_id(text) if text is not None else None
        if text is not None and token_id is not None:
            return NamedToken(text, token_id)
    return None


def _added_tokens(files: Mapping[str, bytes], where: str) -> list[str]:
    if "added_tokens.json" not in files:
        return []
    added = _json_object(files, "added_tokens.json", where)
    return sorted(added, key=lambda text: int(added[text]))


def _json_object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(files[name])
    except ValueError as error:
        raise _damaged(f"{where}: {name}", str(error)) from error
    if not isinstance(document, dict):
        raise _damaged(f"{where}: {name}", f"JSON {type(document).__name__}, not an object")
    return document


def _damaged(where: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the tokenizer cannot be read",
        where=where,
        expected="files as written by tokenizers or transformers",
        found=found[:300],
        remedy="save the tokenizer again with transformers' `tokenizer.save_pretrained(directory)`",
    )
