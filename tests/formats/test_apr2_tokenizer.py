"""A tokenizer inside an `.apr` comes back byte for byte, and other readers find upstream's keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apr.formats.apr2.layout import Flags
from apr.formats.apr2.metadata import apr2_metadata
from apr.formats.apr2.read import read_apr2
from apr.formats.apr2.tokenizer import MOST_TEXT_BYTES, tokenizer_metadata, tokenizer_tensors
from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.tokenizer_facts import read_vocabulary, row_count
from apr.formats.writing import tensor_from_bytes

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 6, "content": "<|end|>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "#": 3}, "merges": [["a", "b"], "# a"]},
}
FILES = {
    "tokenizer.json": json.dumps(TOKENIZER).encode(),
    "tokenizer_config.json": b'{"model_max_length": 128}\n',
    "chat_template.jinja": "{{ 'grüß' }}".encode(),
}


def write_with(path: Path, files: dict[str, bytes]) -> None:
    model = [tensor_from_bytes("w", DType.F32, (1,), bytes(4))]
    metadata = apr2_metadata(config={"bos_token_id": 6, "eos_token_id": [6]}, tokenizer_files=files)
    write_apr2(path, metadata=metadata, tensors=[*model, *tokenizer_tensors(files)])


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        {**FILES, "tokenizer.model": b"\x0a\xff\xfe\x00binary"},
        {"tokenizer.json": json.dumps({**TOKENIZER, "filler": "x" * MOST_TEXT_BYTES}).encode()},
        {"empty.txt": b""},
    ],
    ids=["text", "text and binary", "large", "empty"],
)
def test_files_come_back_byte_for_byte(tmp_path: Path, files: dict[str, bytes]) -> None:
    write_with(tmp_path / "x.apr", files)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert dict(checkpoint.tokenizer_files()) == files
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.problems == checkpoint.verify_checksums() == ()
        assert checkpoint.tokenizer_vocabulary_size == (7 if "tokenizer.json" in files else None)


def test_upstreams_keys_and_flag_are_written(tmp_path: Path) -> None:
    write_with(tmp_path / "x.apr", FILES)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        found = {key: value for key, value in checkpoint.metadata.items() if key.startswith("tokenizer.")}
    assert found == {
        "tokenizer.vocab_size": 7,
        "tokenizer.model_type": "BPE",
        "tokenizer.vocabulary": ["a", "b", "ab", "#", "[PAD4]", "[PAD5]", "<|end|>"],
        "tokenizer.merges": ["a b", "# a"],
        "tokenizer.bos_token_id": 6,
    }
    flags = int.from_bytes((tmp_path / "x.apr").read_bytes()[6:8], "little")
    assert flags == Flags.HAS_VOCAB | Flags.LAYOUT_ROW_MAJOR


def test_a_key_that_says_too_little_does_not_hide_ids(tmp_path: Path) -> None:
    metadata = {**tokenizer_metadata(FILES), "tokenizer.vocab_size": 2, "tokenizer.vocabulary": ["a"]}
    write_apr2(tmp_path / "x.apr", metadata=metadata, tensors=[])
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.tokenizer_vocabulary_size == 7


def test_upstreams_own_files_show_their_vocabulary(tmp_path: Path) -> None:
    write_apr2(tmp_path / "x.apr", metadata={"tokenizer.vocabulary": ["a", "b", "c"]}, tensors=[])
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.tokenizer_vocabulary_size == 3
        assert checkpoint.tokenizer_files() == {}


def test_file_names_that_lead_elsewhere_are_reported_and_dropped(tmp_path: Path) -> None:
    metadata = {"hf_tokenizer_files": {"../evil": "x", "tokenizer.json": "{}", "n": 3}}
    parts = [tensor_from_bytes(f"__apr__.tokenizer/{name}", DType.U8, (1,), b"x") for name in ("/etc/x", "vocab.json")]
    write_apr2(tmp_path / "x.apr", metadata=metadata, tensors=parts)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert [problem.found for problem in checkpoint.problems] == ["'../evil'", "3", "'/etc/x'"]
        assert set(checkpoint.tokenizer_files()) == {"tokenizer.json", "vocab.json"}
    write_apr2(tmp_path / "y.apr", metadata={"hf_tokenizer_files": ["a"]}, tensors=[])
    with read_apr2(tmp_path / "y.apr") as checkpoint:
        assert [problem.what for problem in checkpoint.problems] == ["not a JSON object"]


def test_a_huge_gap_does_not_become_a_huge_list() -> None:
    keys = tokenizer_metadata({"vocab.json": b'{"a": 0, "b": 4000000000}'})
    assert keys["tokenizer.vocab_size"] == 4_000_000_001
    assert "tokenizer.vocabulary" not in keys


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        ({}, None),
        ({"tokenizer.json": b"{"}, None),
        ({"tokenizer.json": b"[]"}, None),
        ({"tokenizer.json": b'{"model": {"vocab": 3}, "added_tokens": 7}'}, None),
        ({"tokenizer.json": b'{"model": {"vocab": {"a": -1, "b": true, "c": "x"}}}'}, None),
        ({"tokenizer.json": b'{"model": {"type": "Unigram", "vocab": [["a", 0.1], ["b", 0.2]]}}'}, 2),
        ({"vocab.json": b'{"a": 0, "b": 1}', "merges.txt": b"#version: 0.2\na b\n# a\n"}, 2),
        ({"vocab.json": b'{"a": 0, "b": 1}', "added_tokens.json": b'{"<x>": 9}'}, 10),
        ({"vocab.txt": b"[PAD]\n[UNK]\nthe\n"}, 3),
        ({"tokenizer.model": b"\x0a\x01"}, None),
    ],
)
def test_rows_needed_by_every_kind_of_tokenizer(files: dict[str, bytes], rows: int | None) -> None:
    vocabulary = read_vocabulary(files)
    assert row_count(files) == rows == (None if vocabulary is None else vocabulary.row_count)


def test_merges_that_begin_with_a_hash_are_kept() -> None:
    vocabulary = read_vocabulary(
        {"vocab.json": b'{"#": 0, "a": 1}', "merges.txt": b"#version: 0.2\r\n# a\r\n\r\na #\r\n"}
    )
    assert vocabulary is not None
    assert vocabulary.merges == ("# a", "a #")
