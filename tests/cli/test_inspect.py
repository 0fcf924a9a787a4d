"""`apr inspect`: upstream's keys, the truth about validity, every container, and no heavy imports."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.formats.apr2.layout import Flags
from tests.cli.conftest import imported_by
from tests.quality.founding import VOCABULARY, qwen2_tensors, write_founding_file

STAMPED = {"architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"}
HF_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


def write_safetensors(path: Path) -> Path:
    """The small Qwen2 as a bare `.safetensors` (format: https://github.com/huggingface/safetensors)."""
    header, chunks, position = {}, [], 0
    for tensor in sorted(qwen2_tensors(), key=lambda tensor: tensor.name):
        data = b"".join(bytes(memoryview(chunk).cast("B")) for chunk in tensor.chunks())
        offsets = [position, position + len(data)]
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        chunks.append(data)
        position += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
    return path


def write_directory(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(HF_CONFIG | config))
    write_safetensors(path / "model.safetensors")
    return path


@pytest.mark.falsifies("INV-APR-PROV-002")
def test_json_has_the_founding_projects_keys(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr", license="MIT", param_count=0)
    document = apr("inspect", path, "--json").document
    assert document["schema"] == "apr.inspect/1"
    assert (document["file"], document["format"], document["version"]) == (str(path), "APR v2", "2.0")
    assert (document["valid"], document["checksum_valid"]) == (True, True)
    assert (document["tensor_count"], document["size_bytes"]) == (27, path.stat().st_size)
    assert document["architecture"] == "LlamaForCausalLM"
    assert [document[name] for name in ("num_layers", "num_heads", "hidden_size", "vocab_size")] == [2, 4, 32, 96]
    assert document["flags"] == dict.fromkeys(
        ["lz4_compressed", "zstd_compressed", "encrypted", "signed", "sharded", "quantized", "has_vocab"], False
    )
    metadata = document["metadata"]
    assert metadata["license"] == "MIT"
    assert [metadata[name] for name in ("data_source", "data_license", "hf_architecture", "hf_model_type")] == [
        None
    ] * 4
    assert metadata["architecture"] == "LlamaForCausalLM"
    assert "param_count" not in metadata
    assert "quality" not in document


def test_a_lie_is_told_with_both_sides(apr: Callable, tmp_path: Path) -> None:
    document = apr("inspect", write_founding_file(tmp_path / "x.apr"), "--json").document
    (claim,) = document["claims"]
    assert (claim["place"], claim["value"]) == ("APR metadata: architecture", "LlamaForCausalLM")
    assert claim["means"][0] == {"class_name": "LlamaForCausalLM", "model_type": "llama", "kind": "decoder"}
    assert claim["is_disputed"] is False
    verdict = document["verdict"]
    assert verdict["kind"] == "contradiction"
    assert verdict["candidates"][0]["class_name"] == "Qwen2ForCausalLM"
    assert "LlamaForCausalLM" not in [each["class_name"] for each in verdict["candidates"]]
    assert verdict["runner_up"]["class_name"] == "LlamaForCausalLM"
    assert any("llama (LlamaForCausalLM)" in reason for reason in verdict["reasons"])


def test_people_read_the_same_story(apr: Callable, tmp_path: Path) -> None:
    answer = apr("inspect", write_founding_file(tmp_path / "x.apr"), "--quality")
    assert (answer.exit_code, answer.stderr) == (0, "")
    for text in ("contradiction", "LlamaForCausalLM", "Qwen2ForCausalLM", "40 of 100, not ship-ready", "capped at 40"):
        assert text in answer.stdout


def test_no_stamp_at_all_is_unknown_and_named_so(apr: Callable, tmp_path: Path) -> None:
    document = apr("inspect", write_founding_file(tmp_path / "x.apr", architecture=None), "--json").document
    assert (document["architecture"], document["metadata"]["architecture"]) == (None, "unknown")
    assert (document["verdict"]["kind"], document["claims"]) == ("unknown", [])


def test_a_directory_and_a_bare_safetensors_are_inspected_too(apr: Callable, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "model")
    document = apr("inspect", directory, "--json", "--quality").document
    assert (document["format"], document["container"]) == ("Hugging Face directory", "hf")
    assert document["metadata"]["hf_architecture"] == "Qwen2ForCausalLM"
    assert document["verdict"]["kind"] == "match"
    assert document["config"]["missing"] == []
    assert document["quality"]["breakdown"]["hf_identity"] == 20
    bare = apr("inspect", write_safetensors(tmp_path / "bare.safetensors"), "--json").document
    assert (bare["container"], bare["flags"], bare["version"]) == ("safetensors", None, None)
    assert bare["tensor_count"] == 27


def test_vocab_lists_the_tokens(apr: Callable, tmp_path: Path) -> None:
    tokens = {"tokenizer.vocabulary": [f"t\x1b{number}" for number in range(VOCABULARY)]}
    path = write_founding_file(tmp_path / "x.apr", flags=Flags.LAYOUT_ROW_MAJOR | Flags.HAS_VOCAB, **STAMPED, **tokens)
    document = apr("inspect", path, "--vocab", "--json").document
    assert document["vocabulary"][95] == {"id": 95, "token": "t\x1b95"}
    assert document["flags"]["has_vocab"] is True
    shown = apr("inspect", path, "--vocab").stdout
    assert "\x1b" not in shown
    assert "40 of 96 tokens" in shown


def test_valid_is_false_when_deep_reading_finds_damage(apr: Callable, tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    assert apr("inspect", path, "--json").document["valid"] is True
    document = apr("inspect", path, "--json", "--deep").document
    assert document["valid"] is False
    assert "CRC32" in document["problems"][0]["what"]


@pytest.mark.parametrize(
    ("content", "code"), [(None, 3), (b"", 4), (b"hello world, this is no model", 4), (b"APR\0\x02\0", 4)]
)
def test_what_cannot_be_read_is_an_error_with_the_path(
    apr: Callable, tmp_path: Path, content: bytes | None, code: int
) -> None:
    path = tmp_path / "x.apr"
    if content is not None:
        path.write_bytes(content)
    for command in ("inspect", "validate", "tensors", "lineage"):
        answer = apr(command, path)
        assert (answer.exit_code, answer.stdout) == (code, ""), command
        assert str(path) in answer.stderr
        error = apr(command, path, "--json").document["error"]
        assert error["exit_code"] == code
        assert error["remedy"]


@pytest.mark.parametrize("command", [["inspect", "--quality"], ["inspect"], ["tensors"], ["lineage"]])
def test_light_commands_import_nothing_heavy(tmp_path: Path, command: list[str]) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    heavy = {"torch", "transformers", "tokenizers", "datasets", "pydantic", "rich", "yaml", "matplotlib", "safetensors"}
    if command[0] == "inspect":
        heavy |= {"numpy", "logging"}
    assert imported_by(*command, str(path)).isdisjoint(heavy)


@pytest.mark.parametrize("command", [["validate"], ["tensors", "--stats"], ["inspect", "--quality", "--deep"]])
def test_commands_that_read_values_need_neither_torch_nor_transformers(tmp_path: Path, command: list[str]) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    assert imported_by(*command, str(path)).isdisjoint({"torch", "transformers", "tokenizers", "pydantic", "rich"})
