"""Tokenizers and shards: what goes in comes out, in a fixed order, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from apr.errors import AprError, DamagedFileError, NotFoundError, RefusedError, UsageError
from apr.loading.tokenizer import (
    build_tokenizer,
    end_of_document_token,
    read_tokenizer_files,
    tokenizer_output_hash,
    unknown_token,
    vocabulary_size,
)
from apr.training.corpus_files import corpus_files
from apr.training.encode_options import EncodeOptions, EosPolicy
from apr.training.tokenize_encode import encode_corpus
from apr.training.tokenize_estimate import estimate_corpus
from apr.training.tokenize_train import TokenizerTrainingOptions, train_tokenizer


def ids_of(folder: Path) -> list[list[int]]:
    return [numpy.fromfile(path, dtype="<u4").tolist() for path in sorted(folder.glob("*.bin"))]


def encode(corpus: Path, tokenizer: Path, output: Path, **changes: object) -> dict[str, object]:
    options = EncodeOptions(corpora=(corpus,), tokenizer=tokenizer, output=output, **changes)  # type: ignore[arg-type]
    return encode_corpus(options).manifest


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    texts = [
        "def f(x):\n    return x\n",
        "import json\n",
        "class A:\n    pass\n",
        "import json\n",
        "x = 1\n",
        "y = 2\n",
    ]
    path.write_text("".join(json.dumps({"content": text, "id": index}) + "\n" for index, text in enumerate(texts)))
    return path


def test_transformers_opens_the_trained_tokenizer_and_agrees_with_it(tokenizer: Path, source_tree: Path) -> None:
    from transformers import AutoTokenizer

    text = (source_tree / "heapq.py").read_text()
    theirs = AutoTokenizer.from_pretrained(tokenizer)
    ours = build_tokenizer(read_tokenizer_files(tokenizer))
    assert theirs(text)["input_ids"] == ours.encode(text).ids
    assert theirs.decode(theirs(text)["input_ids"]) == text
    assert theirs.eos_token == "<|endoftext|>"
    assert len(theirs) == vocabulary_size(ours)


def test_training_twice_gives_the_same_files(tokenizer: Path, source_tree: Path, tmp_path: Path) -> None:
    train_tokenizer(TokenizerTrainingOptions(corpora=(source_tree,), output=tmp_path / "again", vocabulary_size=384))
    assert read_tokenizer_files(tmp_path / "again") == read_tokenizer_files(tokenizer)


def test_output_hash_survives_another_form_and_sees_another_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    files = read_tokenizer_files(tokenizer)
    document = json.loads(files["tokenizer.json"])
    document["normalizer"] = None
    plain = {**files, "tokenizer.json": json.dumps(document).encode()}
    in_parts = {name: files[name] for name in ("vocab.json", "merges.txt")}
    assert tokenizer_output_hash(in_parts) == tokenizer_output_hash(plain)
    document["model"]["merges"] = document["model"]["merges"][:-20]
    assert tokenizer_output_hash({"tokenizer.json": json.dumps(document).encode()}) != tokenizer_output_hash(files)


def test_special_tokens_are_found_in_the_files(tokenizer: Path) -> None:
    files = read_tokenizer_files(tokenizer)
    built = build_tokenizer(files)
    end = end_of_document_token(files, built)
    assert end is not None
    assert (end.text, end.id) == ("<|endoftext|>", 0)
    assert unknown_token(files, built) is None


def test_shards_hold_the_documents_in_order_with_the_end_between_them(
    lines: Path, tokenizer: Path, tmp_path: Path
) -> None:
    manifest = encode(lines, tokenizer, tmp_path / "out")
    built = build_tokenizer(read_tokenizer_files(tokenizer))
    texts = [json.loads(line)["content"] for line in lines.read_text().splitlines()]
    expected: list[int] = []
    for number, text in enumerate(texts):
        expected += ([0] if number else []) + built.encode(text).ids
    assert ids_of(tmp_path / "out") == [expected]
    assert manifest["schema"] == "pretokenize-bin-v1"
    assert (manifest["total_tokens"], manifest["total_documents"]) == (len(expected), 6)
    assert (manifest["eos_token_id"], manifest["eos_token_count"]) == (0, 5)


@pytest.mark.parametrize(("policy", "count"), [(EosPolicy.NONE, 0), (EosPolicy.BETWEEN, 5), (EosPolicy.AFTER, 6)])
def test_each_end_of_document_policy_writes_as_many_as_it_says(
    policy: EosPolicy, count: int, lines: Path, tokenizer: Path, tmp_path: Path
) -> None:
    manifest = encode(lines, tokenizer, tmp_path / "out", eos_policy=policy)
    assert ids_of(tmp_path / "out")[0].count(0) == count == manifest["eos_token_count"]


def test_shards_rotate_between_documents_and_none_is_empty(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest = encode(lines, tokenizer, tmp_path / "out", shard_tokens=1)
    assert [row["documents"] for row in manifest["shards"]] == [1] * 6  # type: ignore[attr-defined]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.bin"))[-1] == "shard-00005.bin"
    whole = encode(lines, tokenizer, tmp_path / "whole")
    assert [each for ids in ids_of(tmp_path / "out") for each in ids] == ids_of(tmp_path / "whole")[0]
    assert whole["shard_count"] == 1


def test_parquet_jsonl_and_text_give_the_same_ids(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = [json.loads(line)["content"] for line in lines.read_text().splitlines()]
    parquet.write_table(pyarrow.table({"content": texts}), tmp_path / "docs.parquet")
    tree = tmp_path / "tree"
    tree.mkdir()
    for index, text in enumerate(texts):
        (tree / f"{index}.py").write_text(text)
    encode(lines, tokenizer, tmp_path / "a")
    assert encode(tmp_path / "docs.parquet", tokenizer, tmp_path / "b")["input_format"] == "parquet"
    encode(tree, tokenizer, tmp_path / "c")
    assert ids_of(tmp_path / "a") == ids_of(tmp_path / "b") == ids_of(tmp_path / "c")


@pytest.mark.falsifies("FALSIFY-CORPUS-SPLIT-001")
def test_equal_documents_land_on_one_side_of_the_split(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    for count in (1, 2, 3):
        output = tmp_path / f"out{count}"
        manifest = encode(lines, tokenizer, output, validation_documents=count, eos_policy=EosPolicy.NONE)
        training = (output / "documents.hashes").read_bytes()
        validation = (output / "validation" / "documents.hashes").read_bytes()
        pieces = [{side[i : i + 16] for i in range(0, len(side), 16)} for side in (training, validation)]
        assert len(pieces[1]) == count
        assert not pieces[0] & pieces[1]
        assert len(training) + len(validation) == 6 * 16
        assert manifest["validation"] is not None


def test_text_cannot_smuggle_in_control_tokens(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "docs.txt"
    path.write_text("before <|endoftext|> after")
    encode(path, tokenizer, tmp_path / "text", eos_policy=EosPolicy.NONE)
    encode(path, tokenizer, tmp_path / "parsed", eos_policy=EosPolicy.NONE, parse_special_tokens=True)
    assert 0 not in ids_of(tmp_path / "text")[0]
    assert ids_of(tmp_path / "parsed")[0].count(0) == 1


def test_a_source_tree_is_read_in_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/.hidden.py", ".git/x.py", "__pycache__/y.py", "image.png", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    names = [str(file.path.relative_to(tmp_path)) for file in corpus_files([tmp_path])]
    assert names == ["a.txt", "a/z.py", "b.py"]
    assert [file.path.name for file in corpus_files([tmp_path], ["*.png"])] == ["image.png"]


def test_a_file_of_a_tree_that_is_no_text_is_left_out_and_named(tokenizer: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good.py").write_text("x = 1\n")
    (tree / "latin.py").write_bytes("größe".encode("latin-1"))
    manifest = encode(tree, tokenizer, tmp_path / "out")
    assert manifest["files_not_text"] == [str(tree / "latin.py")]
    with pytest.raises(DamagedFileError, match="cannot be read") as caught:
        encode(tree / "latin.py", tokenizer, tmp_path / "out2")
    assert caught.value.where == f"{tree / 'latin.py'} at byte 2"


BAD_LINES = {
    "not JSON": ('{"content": "a"}\n{"content": \n', DamagedFileError, "docs.jsonl:2", "not JSON"),
    "no field": ('{"content": "a"}\n\n{"text": "b"}\n', DamagedFileError, "docs.jsonl:3", "'text'"),
    "no text": ('{"content": 5}\n', DamagedFileError, "docs.jsonl:1: content", "int"),
    "no object": ("[1]\n", DamagedFileError, "docs.jsonl:1", "a JSON list"),
    "surrogate": ('{"content": "\\ud800"}\n', DamagedFileError, "docs.jsonl:1: content", "surrogate"),
    "empty": ('{"content": " "}\n', RefusedError, "docs.jsonl", "1 empty documents"),
}


@pytest.mark.parametrize("case", BAD_LINES)
@pytest.mark.falsifies("FALSIFY-CORPUS-EMPTY-001")
def test_a_bad_corpus_is_named_to_the_line_and_nothing_is_left(case: str, tokenizer: Path, tmp_path: Path) -> None:
    text, kind, place, found = BAD_LINES[case]
    path = tmp_path / "docs.jsonl"
    path.write_text(text)
    with pytest.raises(kind) as caught:
        encode(path, tokenizer, tmp_path / "out")
    assert place in str(caught.value.where)
    assert found in str(caught.value.found)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["docs.jsonl"]


@pytest.mark.parametrize("content", [b"", b"   \n\n"])
@pytest.mark.planted_defect("INV-CORPUS-EMPTY-001")
def test_training_a_tokenizer_on_nothing_is_refused_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_bytes(content)
    with pytest.raises(RefusedError, match="no document holds text") as caught:
        train_tokenizer(TokenizerTrainingOptions(corpora=(tmp_path / "docs.txt",), output=tmp_path / "out"))
    assert caught.value.invariant == "INV-CORPUS-EMPTY-001"
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_never_mixed_with_a_new_one(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    encode(lines, tokenizer, output)
    before = ids_of(output)
    with pytest.raises(RefusedError, match="exists already"):
        encode(lines, tokenizer, output)
    assert ids_of(output) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard_tokens": 0}, "--shard-tokens"),
        ({"validation_fraction": 1.5}, "between 0 and 1"),
        ({"validation_fraction": 0.1, "validation_documents": 3}, "not both"),
    ],
)
def test_contradicting_options_are_named(
    changes: dict[str, object], words: str, lines: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        encode(lines, tokenizer, tmp_path / "out", **changes)


def test_missing_things_are_not_found(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    for corpus, folder in ((tmp_path / "none.jsonl", tokenizer), (lines, tmp_path / "none"), (lines, tmp_path)):
        with pytest.raises(NotFoundError):
            encode(corpus, folder, tmp_path / "out")
    with pytest.raises(UsageError, match="257"):
        train_tokenizer(TokenizerTrainingOptions(corpora=(lines,), output=tmp_path / "out", vocabulary_size=10))


def test_a_damaged_tokenizer_is_named(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes()[:-50])
    with pytest.raises(DamagedFileError, match="tokenizer cannot be read") as caught:
        encode(lines, folder, tmp_path / "out")
    assert "tokenizer.json" in str(caught.value.where)


def test_an_estimate_of_a_small_corpus_is_exact(lines: Path, tokenizer: Path, tmp_path: Path) -> None:
    options = EncodeOptions(corpora=(lines,), tokenizer=tokenizer, output=tmp_path / "out", eos_policy=EosPolicy.NONE)
    estimate = estimate_corpus(options, 100)
    assert estimate.is_whole_corpus
    assert not (tmp_path / "out").exists()
    assert estimate.estimated_tokens == encode_corpus(options).manifest["total_tokens"]


def test_every_error_is_one_of_ours(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is not parquet PAR1")
    with pytest.raises(AprError, match="cannot be read") as caught:
        encode(tmp_path / "bad.parquet", tokenizer, tmp_path / "out")
    assert caught.value.exit_code == 4
