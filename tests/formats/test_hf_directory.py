"""Hugging Face directories: read as transformers writes them, written as it reads them, and every lie reported."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, UsageError
from apr.formats.base import Checkpoint, Format
from apr.formats.dtypes import DType
from apr.formats.hf.write import split_into_shards, write_hf_directory
from apr.formats.recorded import Recorded, TrainingRecord
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.write import write_safetensors
from apr.formats.writing import TensorToWrite, copy_of, tensor_digests, tensor_from_bytes
from tests.tiny_models import tiny_model

INTEGRITY = "INV-FILE-INTEGRITY-001"
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "x": math.inf}
INDEX = "model.safetensors.index.json"


def some_tensors(count: int = 4) -> list[TensorToWrite]:
    return [tensor_from_bytes(f"layer.{number}.w", DType.U8, (10,), bytes([number]) * 10) for number in range(count)]


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_hf_directory(tmp_path / "m", config=CONFIG, tensors=some_tensors(), shard_bytes=20)
    return tmp_path / "m"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    write_hf_directory(tmp_path / "m", config=CONFIG, tensors=some_tensors())
    return tmp_path / "m"


def edit_json(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def edit_map(directory: Path, **changes: str | None) -> None:
    weight_map = json.loads((directory / INDEX).read_text())["weight_map"]
    weight_map.update({f"layer.{key[1:]}.w": value for key, value in changes.items()})
    edit_json(directory / INDEX, weight_map={key: value for key, value in weight_map.items() if value is not None})


def refusal_of(directory: Path) -> DamagedFileError:
    with pytest.raises(DamagedFileError) as caught:
        open_checkpoint(directory)
    assert str(directory) in str(caught.value.where)
    assert caught.value.remedy
    return caught.value


def contents(checkpoint: Checkpoint) -> dict[str, tuple[DType, tuple[int, ...], bytes]]:
    return {name: (each.dtype, each.shape, each.read_bytes()) for name, each in checkpoint.tensors.items()}


@pytest.mark.parametrize("shard_bytes", [5, 20, 10**9])
def test_what_is_written_is_read_back(tmp_path: Path, shard_bytes: int) -> None:
    recorded = Recorded(
        training=TrainingRecord(step=3, validation_loss=2.5), tensor_digests=tensor_digests(some_tensors())
    )
    files = {"tokenizer.json": b'{"model": {"vocab": {"a": 4}}}', "tokenizer.model": b"\xff\0"}
    write_hf_directory(
        tmp_path / "m", config=CONFIG, tensors=some_tensors(), tokenizer_files=files, recorded=recorded,
        generation_config={"eos_token_id": 3}, shard_bytes=shard_bytes,
    )  # fmt: skip
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.format is Format.HF_DIRECTORY
        assert checkpoint.config == CONFIG
        assert checkpoint.config_place == "config.json"
        assert [stamp.place for stamp in checkpoint.stamps] == [
            "config.json: architectures[0]",
            "config.json: model_type",
        ]
        assert checkpoint.generation_config == {"eos_token_id": 3}
        assert checkpoint.recorded == recorded
        assert checkpoint.tokenizer_files() == files
        assert checkpoint.tokenizer_vocabulary_size == 5
        assert contents(checkpoint) == {f"layer.{n}.w": (DType.U8, (10,), bytes([n]) * 10) for n in range(4)}
        assert checkpoint.problems == checkpoint.verify_checksums() == ()
        assert len(checkpoint.files) == {5: 4, 20: 2, 10**9: 1}[shard_bytes]
    assert json.loads((tmp_path / "m" / "config.json").read_text())["x"] == {"__float__": "Infinity"}


def test_shards_keep_the_order_and_the_limit() -> None:
    sizes = [[tensor.size_bytes for tensor in shard] for shard in split_into_shards(some_tensors(5), 25)]
    assert sizes == [[10, 10], [10, 10], [10]]
    assert split_into_shards([], 25) == [[]]


@pytest.mark.interop
@pytest.mark.parametrize("shard_size", ["5GB", "60KB"])
def test_what_transformers_saves_is_read_and_copied_without_loss(tmp_path: Path, shard_size: str) -> None:
    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    with open_checkpoint(tmp_path / "theirs") as theirs:
        assert (len(theirs.files) > 1) == (shard_size == "60KB")
        assert theirs.problems == ()
        assert theirs.tensors["model.embed_tokens.weight"].shape == tuple(model.model.embed_tokens.weight.shape)
        assert theirs.config is not None
        write_hf_directory(
            tmp_path / "ours", config=theirs.config, tensors=[copy_of(each) for each in theirs.tensors.values()],
            generation_config=theirs.generation_config, shard_bytes=50_000,
        )  # fmt: skip
        with open_checkpoint(tmp_path / "ours") as ours:
            assert contents(ours) == contents(theirs)
            assert ours.config == theirs.config
            assert len(ours.files) > 1


@pytest.mark.interop
def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    import torch

    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path / "theirs")
    with open_checkpoint(tmp_path / "theirs") as theirs:
        assert theirs.config is not None
        parts = [copy_of(each) for each in theirs.tensors.values()]
        write_hf_directory(tmp_path / "ours", config=theirs.config, tensors=parts, shard_bytes=50_000)
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name]), name


@pytest.mark.planted_defect(INTEGRITY)
def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    error = refusal_of(sharded)
    assert error.what == "1 of 2 shards listed in the index are missing"
    assert error.found == "missing: model-00002-of-00002.safetensors"
    assert error.invariant == INTEGRITY


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", "", "..", "x\0y", 7, None])
def test_a_shard_outside_the_directory_is_refused(sharded: Path, name: object) -> None:
    edit_json(sharded / INDEX, weight_map={"layer.0.w": name})
    assert "leads outside the directory" in refusal_of(sharded).what


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_a_map_is_refused(sharded: Path, weight_map: object) -> None:
    edit_json(sharded / INDEX, weight_map=weight_map)
    assert "maps no tensors" in refusal_of(sharded).what


@pytest.mark.planted_defect(INTEGRITY)
def test_a_tensor_that_is_not_in_its_shard_is_named(sharded: Path) -> None:
    edit_map(sharded, _0="model-00002-of-00002.safetensors")
    error = refusal_of(sharded)
    assert error.what == "1 tensors listed in the index are not in their shard"
    assert error.found == "missing: layer.0.w"


@pytest.mark.planted_defect(INTEGRITY)
def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    write_safetensors(sharded / "model-00002-of-00002.safetensors", tensors=some_tensors()[1:])
    error = refusal_of(sharded)
    assert error.what == "two shards hold a tensor of the same name"
    assert "layer.1.w" in str(error.where)


@pytest.mark.planted_defect(INTEGRITY)
def test_a_truncated_shard_is_named(sharded: Path) -> None:
    shard = sharded / "model-00001-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    error = refusal_of(sharded)
    assert str(shard) in str(error.where)
    assert error.what == "the file ends before its tensors do"


@pytest.mark.planted_defect(INTEGRITY)
def test_tensors_and_shards_the_index_does_not_list_are_reported_and_kept(sharded: Path) -> None:
    edit_map(sharded, _3=None)
    write_safetensors(sharded / "model-00003-of-00003.safetensors", tensors=some_tensors(1))
    edit_json(sharded / INDEX, metadata={"total_size": 39})
    with open_checkpoint(sharded) as checkpoint:
        assert [problem.what for problem in checkpoint.problems] == [
            "shards hold tensors that the index does not list",
            "the directory holds shards that the index does not list",
            "the shards do not hold as many bytes as the index says",
        ]
        assert "layer.3.w" in checkpoint.tensors


@pytest.mark.planted_defect(INTEGRITY)
def test_two_sets_of_weights_are_reported(sharded: Path) -> None:
    write_safetensors(sharded / "model.safetensors", tensors=some_tensors(1))
    with open_checkpoint(sharded) as checkpoint:
        assert ["two sets of weights" in problem.what for problem in checkpoint.problems] == [True]


@pytest.mark.planted_defect(INTEGRITY)
def test_recorded_digests_find_changed_bytes(tmp_path: Path) -> None:
    recorded = Recorded(tensor_digests={**tensor_digests(some_tensors()), "gone": "00"})
    write_hf_directory(tmp_path / "m", config=CONFIG, tensors=some_tensors(), recorded=recorded, shard_bytes=20)
    shard = tmp_path / "m" / "model-00002-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        changed, gone = checkpoint.verify_checksums()
    assert "layer.3.w" in changed.where
    assert gone.where == "tensor gone"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "not an object"),
        ("config.json", '{"model_type": "a", "model_type": "b"}', "cannot be read"),
        ("config.json", "[" * 100_000, "nested too deeply"),
        ("generation_config.json", "", "cannot be read"),
        ("apr.json", "{}", "the apr record cannot be read"),
    ],
)
def test_broken_side_files_are_named(single: Path, name: str, text: str, message: str) -> None:
    (single / name).write_text(text)
    error = refusal_of(single)
    assert message in error.what
    assert name in str(error.where)


def test_a_config_of_absurd_size_is_refused_before_it_is_read(single: Path) -> None:
    with (single / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than its kind" in refusal_of(single).what


def test_infinity_as_older_transformers_wrote_it_is_read(single: Path) -> None:
    (single / "config.json").write_text('{"model_type": "mamba2", "time_step_limit": [0.0, Infinity]}')
    with open_checkpoint(single) as checkpoint:
        assert checkpoint.config == {"model_type": "mamba2", "time_step_limit": [0.0, math.inf]}


def test_absurd_numbers_in_a_config_are_harmless(single: Path) -> None:
    (single / "config.json").write_text('{"hidden_size": 1' + "0" * 4000 + ', "x": 1e999, "architectures": [7]}')
    with open_checkpoint(single) as checkpoint:
        assert [stamp.value for stamp in checkpoint.stamps] == ["7"]


def test_a_directory_without_config_or_weights_is_explained(tmp_path: Path, single: Path) -> None:
    (single / "config.json").unlink()
    error = refusal_of(single)
    assert (error.invariant, error.expected) == ("FALSIFY-APR-PRETRAIN-INIT-005", "config.json")
    (tmp_path / "empty").mkdir()
    assert (
        refusal_of(tmp_path / "empty").what == "the directory holds no weights under the names Hugging Face gives them"
    )


@pytest.mark.parametrize(
    ("name", "what", "advice"),
    [
        ("pytorch_model.bin", "Python pickles", "save_pretrained"),
        ("pytorch_model.bin.index.json", "Python pickles", "save_pretrained"),
        ("consolidated.00.pth", "Python pickles", "save_pretrained"),
        ("adapter_model.safetensors", "an adapter", "merge_and_unload"),
        ("model.fp16.safetensors", "name of a variant", "ln -s model.fp16.safetensors "),
        ("weights.safetensors", "no weights", "name the file itself: "),
        ("epoch-003.apr", "no weights", "epoch-003.apr"),
        ("README.md", "no weights", "fetch the weight files"),
    ],
)
def test_weights_of_other_kinds_are_explained(tmp_path: Path, name: str, what: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    error = refusal_of(tmp_path)
    assert what in error.what
    assert advice in str(error.remedy)
    assert name in str(error.found)


def test_links_into_a_cache_are_followed(tmp_path: Path, sharded: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for name in os.listdir(sharded):
        (tmp_path / "snapshot" / name).symlink_to(sharded / name)
    with open_checkpoint(tmp_path / "snapshot") as checkpoint:
        assert len(checkpoint.tensors) == 4
    (sharded / "model-00001-of-00002.safetensors").unlink()
    assert "shards listed in the index are missing" in refusal_of(tmp_path / "snapshot").what


@pytest.mark.parametrize("name", ["../evil", "a/b", "config.json", "x.safetensors", ".hidden", "", "apr.json", "a\0b"])
def test_tokenizer_files_may_not_be_written_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="may not be written under this name"):
        write_hf_directory(tmp_path / "m", config={}, tensors=[], tokenizer_files={name: b"x"})
    assert os.listdir(tmp_path) == []


def test_an_existing_directory_is_kept(single: Path) -> None:
    before = sorted(os.listdir(single))
    with pytest.raises(RefusedError, match="exists already"):
        write_hf_directory(single, config={}, tensors=[])
    assert sorted(os.listdir(single)) == before


def test_a_tensor_that_breaks_leaves_no_directory(tmp_path: Path) -> None:
    broken = TensorToWrite("b", DType.U8, (5,), lambda: (b"x",))
    with pytest.raises(UsageError, match="another number of bytes"):
        write_hf_directory(tmp_path / "m", config={}, tensors=[*some_tensors(), broken], shard_bytes=10)
    assert os.listdir(tmp_path) == []


def test_a_closed_directory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputOutputError, match="no permission") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "none", tmp_path / "link", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises((NotFoundError, InputOutputError)) as caught:
            open_checkpoint(path)
        assert caught.value.where
    with pytest.raises(DamagedFileError, match="not a regular file"):
        open_checkpoint(Path("/dev/null"))
