"""A tokenizer is embedded whole, fits the model, and is the one the weights learned with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.errors import NotFoundError, RefusedError, UsageError
from apr.formats.apr2.layout import Flags
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.edit_apr2 import header_flags
from apr.stamping.patch import stamp_file
from tests.quality.founding import VOCABULARY as FOUNDING_VOCABULARY
from tests.stamping.conftest import QWEN2, Lie, save_tokenizer, stored_digests


def with_tokenizer(directory: Path) -> StampChanges:
    return StampChanges(**QWEN2.identity, tokenizer=directory)


@pytest.fixture
def small_tokenizer(tmp_path: Path) -> Path:
    """A byte-level BPE of vocab.json and merges.txt that fits the founding file, with a gap in its ids."""
    directory = tmp_path / "small-tokenizer"
    directory.mkdir()
    vocabulary = {"#": 0, "##": 1, "a": 2, "b": 3, "ab": 4, "<|endoftext|>": 10}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("#version: 0.2\n# #\na b\n")
    return directory


def test_every_tokenizer_file_comes_back_byte_for_byte(make_lie: Callable[[str], Lie], small_tokenizer: Path) -> None:
    lie = make_lie("apr-typed-only")
    before = stored_digests(lie.path)
    output = stamp_file(lie.path, with_tokenizer(small_tokenizer), lie.output()).output
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.tokenizer_files() == {file.name: file.read_bytes() for file in small_tokenizer.iterdir()}
        assert header_flags(checkpoint) & Flags.HAS_VOCAB
    assert stored_digests(output) == before


def test_upstreams_keys_keep_ids_in_place_and_merges_that_begin_with_a_hash(
    make_lie: Callable[[str], Lie], small_tokenizer: Path
) -> None:
    lie = make_lie("apr-typed-only")
    output = stamp_file(lie.path, with_tokenizer(small_tokenizer), lie.output()).output
    with open_checkpoint(output) as checkpoint:
        tokens = checkpoint.metadata["tokenizer.vocabulary"]
        assert (tokens[1], tokens[4], tokens[10], len(tokens)) == ("##", "ab", "<|endoftext|>", 11)
        assert checkpoint.metadata["tokenizer.merges"] == ["# #", "a b"]
        assert checkpoint.metadata["tokenizer.vocab_size"] == 11


def test_merges_in_the_pair_form_are_kept(make_lie: Callable[[str], Lie], tokenizer_directory: Path) -> None:
    merges = json.loads((tokenizer_directory / "tokenizer.json").read_text())["model"]["merges"]
    assert isinstance(merges[0], list)
    lie = make_lie("apr")
    output = stamp_file(lie.path, with_tokenizer(tokenizer_directory), lie.output()).output
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.metadata["tokenizer.merges"] == [" ".join(pair) for pair in merges]
        assert any(merge.startswith("#") for merge in checkpoint.metadata["tokenizer.merges"])


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-009")
@pytest.mark.parametrize("container", ["apr", "apr-typed-only", "hf"])
def test_a_tokenizer_larger_than_the_embedding_is_refused(
    make_lie: Callable[[str], Lie], container: str, tmp_path: Path
) -> None:
    lie = make_lie(container)
    directory = tmp_path / "large"
    directory.mkdir()
    rows = FOUNDING_VOCABULARY if container == "apr-typed-only" else 320
    (directory / "vocab.json").write_text(json.dumps({f"t{number}": number for number in range(rows + 1)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(RefusedError, match="no embedding for") as caught:
        stamp_file(lie.path, with_tokenizer(directory), lie.output())
    assert f"{rows + 1:,} tokens" in str(caught.value.found)
    assert f"{rows:,}" in str(caught.value.expected)
    assert not lie.output().exists()


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-010")
def test_another_tokenizer_than_the_recorded_one_is_refused(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    other = save_tokenizer(tmp_path / "other", "def forward self quick brown fox\n")
    with pytest.raises(RefusedError, match="not the one the weights were trained with") as caught:
        stamp_file(lie.path, with_tokenizer(other), lie.output())
    assert "output hash blake3:" in str(caught.value.found)


def test_the_recorded_tokenizer_itself_is_accepted(make_lie: Callable[[str], Lie], tokenizer_directory: Path) -> None:
    lie = make_lie("apr")
    result = stamp_file(lie.path, with_tokenizer(tokenizer_directory), lie.output())
    assert "FALSIFY-APR-PRETRAIN-ARCH-010" in {finding.id for finding in result.findings if finding.status == "pass"}
    assert "tokenizer" not in [change.key for change in result.changes]


def test_a_directory_gets_the_files_and_loses_those_of_the_old_tokenizer(
    make_lie: Callable[[str], Lie], small_tokenizer: Path
) -> None:
    lie = make_lie("hf")
    record = json.loads((lie.path / "apr.json").read_text())
    record["training"]["tokenizer_hash"] = None
    (lie.path / "apr.json").write_text(json.dumps(record))
    changes = StampChanges(hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2", tokenizer=small_tokenizer)
    output = stamp_file(lie.path, changes, lie.output()).output
    assert (output / "merges.txt").read_bytes() == (small_tokenizer / "merges.txt").read_bytes()
    assert not (output / "tokenizer.json").exists()
    stamp_file(lie.path, changes, in_place=True)
    assert not (lie.path / "tokenizer.json").exists()
    with open_checkpoint(lie.path) as checkpoint:
        change = next(each for each in checkpoint.recorded.history[-1]["changes"] if each["key"] == "tokenizer")
    assert set(change["previous"]) == {"tokenizer.json", "tokenizer_config.json"}
    assert set(change["new"]) == {"vocab.json", "merges.txt"}


def test_no_tokenizer_there_and_no_place_for_one_are_errors(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    with pytest.raises(NotFoundError):
        stamp_file(lie.path, with_tokenizer(tmp_path / "missing"), lie.output())
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no tokenizer"):
        stamp_file(lie.path, with_tokenizer(tmp_path / "empty"), lie.output())
    alone = make_lie("safetensors")
    with pytest.raises(UsageError, match="--tokenizer cannot be stamped"):
        stamp_file(alone.path, with_tokenizer(save_tokenizer(tmp_path / "t")), alone.output())


def test_a_large_tokenizer_survives_the_stamps_that_follow(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    directory = tmp_path / "large"
    directory.mkdir()
    (directory / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}) + " " * (5 << 20))
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    (directory / "tokenizer.model").write_bytes(bytes(range(256)))
    lie = make_lie("apr-typed-only")
    output = stamp_file(lie.path, with_tokenizer(directory), lie.output()).output
    stamp_file(output, StampChanges(license="MIT"), in_place=True)
    with open_checkpoint(output) as checkpoint:
        assert checkpoint.tokenizer_files() == {file.name: file.read_bytes() for file in directory.iterdir()}
        assert not any(name.startswith("__apr__") for name in checkpoint.tensors)
        assert header_flags(checkpoint) & Flags.HAS_VOCAB
