"""How many embedding rows a tokenizer needs, held against the ids that transformers gives its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apr.formats.tokenizer_facts import row_count

WORDS = {f"w{number}": number for number in range(300)}
CONFIGS: dict[str, dict[str, Any]] = {
    "nothing added": {},
    "special tokens of the vocabulary": {
        "pad_token": "w1",
        "eos_token": {"__type": "AddedToken", "content": "w2"},
        "bos_token": "w3",
    },
    "a pad token of its own": {"pad_token": "[PAD]"},
    "the same new token twice": {"pad_token": "<end>", "eos_token": "<end>"},
    "sixty more": {"additional_special_tokens": [f"<e{number}>" for number in range(60)]},
    "more that are there": {"additional_special_tokens": ["w4", "w5"]},
    "added at their ids": {
        "added_tokens_decoder": {
            "300": {"content": "<a>", "special": True},
            "301": {"content": "<b>", "special": True},
        },
        "pad_token": "<a>",
    },
    "no token": {"pad_token": None, "additional_special_tokens": []},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rows_are_those_that_the_loaded_tokenizer_needs(tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer

    Tokenizer(models.WordLevel(WORDS, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **CONFIGS[name]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert row_count(files) == max(loaded.get_vocab().values()) + 1


@pytest.mark.parametrize(
    "config", [b"[]", b"{", b'{"pad_token": 7, "additional_special_tokens": "w", "added_tokens_decoder": []}']
)
def test_a_config_that_says_nothing_adds_nothing(config: bytes) -> None:
    document = json.dumps({"model": {"vocab": WORDS}}).encode()
    assert row_count({"tokenizer.json": document, "tokenizer_config.json": config}) == 300
    huge = b'{"added_tokens_decoder": {"99999999999999999999": {"content": "x"}}}'
    assert row_count({"tokenizer.json": document, "tokenizer_config.json": huge}) == 300
