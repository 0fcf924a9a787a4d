"""A planted defect is refused on every path alike: in each container, by `preflight` and by `pretrain --init`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.formats.apr2.metadata import apr2_metadata
from apr.formats.apr2.write import write_apr2
from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of
from tests.contracts.checkpoints import save
from tests.identity.gguf_models import metadata_of, model_of, write_gguf
from tests.tiny_models import relabel, save_tiny, tiny_model

Plant = Callable[[Path], Any]


def as_llama(directory: Path) -> None:
    relabel(directory, "llama", "LlamaForCausalLM")


def with_two_labels(directory: Path) -> None:
    relabel(directory, "qwen2", "LlamaForCausalLM")


def without_a_norm(directory: Path) -> None:
    edit(directory, lambda state: state.pop("model.layers.1.input_layernorm.weight"))


def with_a_stranger(directory: Path) -> None:
    import numpy as np

    edit(directory, lambda state: state.update(stranger=np.ones(3, dtype="float32")))


def transposed(directory: Path) -> None:
    def turn(state: dict[str, Any]) -> None:
        name = "model.layers.0.mlp.down_proj.weight"
        state[name] = state[name].T.copy()

    edit(directory, turn)


def zeroed(directory: Path) -> None:
    edit(directory, lambda state: state["model.layers.0.self_attn.o_proj.weight"].fill(0))


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    path = directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def to_apr(directory: Path, path: Path) -> Path:
    """The directory as an `.apr` with the same config, label and bytes; no gate is asked."""
    with open_checkpoint(directory) as checkpoint:
        metadata = apr2_metadata(config=checkpoint.config)
        write_apr2(path, metadata=metadata, tensors=[copy_of(each) for each in checkpoint.tensors.values()])
    return path


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("healthy") / "qwen2", "qwen2", tie_word_embeddings=False)


@pytest.fixture(params=["apr", "hf"])
def deliver(request: pytest.FixtureRequest, healthy: Path, tmp_path: Path) -> Callable[[Plant | None], Path]:
    """`deliver(plant)` gives a checkpoint of one container with that defect planted, healthy for None."""

    def make(plant: Plant | None) -> Path:
        directory = shutil.copytree(healthy, tmp_path / "model")
        if plant is not None:
            plant(directory)
        return to_apr(directory, tmp_path / "model.apr") if request.param == "apr" else directory

    return make


def refusing_ids(document: dict[str, Any]) -> set[str]:
    findings = document.get("findings") or document["error"]["findings"]
    return {each["id"] for each in findings if each["status"] == "refuse"}


DEFECTS = [
    pytest.param(as_llama, "INV-INIT-ARCH-MATCH-001", marks=pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")),
    pytest.param(with_two_labels, "INV-STAMP-AGREE-001", marks=pytest.mark.planted_defect("INV-STAMP-AGREE-001")),
    pytest.param(without_a_norm, "INV-INIT-COVERAGE-001", marks=pytest.mark.planted_defect("INV-INIT-COVERAGE-001")),
    pytest.param(with_a_stranger, "INV-INIT-COVERAGE-001", marks=pytest.mark.planted_defect("INV-INIT-COVERAGE-001")),
    pytest.param(transposed, "INV-INIT-SHAPE-001", marks=pytest.mark.planted_defect("INV-INIT-SHAPE-001")),
    pytest.param(zeroed, "INV-INIT-VALUES-001", marks=pytest.mark.planted_defect("INV-INIT-VALUES-001")),
]


@pytest.mark.parametrize(("plant", "gate_id"), DEFECTS)
def test_preflight_and_pretrain_refuse_alike_and_leave_nothing(
    deliver: Callable[[Plant | None], Path],
    plant: Plant,
    gate_id: str,
    workplace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = deliver(plant)
    before = sorted(tmp_path.iterdir())
    assert run(["preflight", str(path), "--deep", "--json"]) == 5
    by_preflight = refusing_ids(json.loads(capsys.readouterr().out))
    assert run([*pretrain(workplace, tmp_path), "--init", str(path), "--json"]) == 5
    by_pretrain = refusing_ids(json.loads(capsys.readouterr().out))
    assert gate_id in by_preflight
    assert gate_id in by_pretrain
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.parametrize("fact", ["rope_theta", "rms_norm_eps"])
def test_a_number_that_no_tensor_shows_and_nobody_recorded_is_refused(
    fact: str, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamped = {"architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"}
    model = tiny_model("qwen2", tie_word_embeddings=False)
    whole, path = tmp_path / "whole.apr", tmp_path / "incomplete.apr"
    save(model, whole, **stamped)
    save(model, path, **stamped, **{fact: None})
    assert run(["preflight", str(whole)]) == 0
    capsys.readouterr()
    assert run(["preflight", str(path), "--json"]) == 5
    assert refusing_ids(json.loads(capsys.readouterr().out)) == {"INV-INIT-CONFIG-001"}
    assert run([*pretrain(workplace, tmp_path), "--init", str(path)]) == 5
    assert fact in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_healthy_twin_is_accepted_by_both(
    deliver: Callable[[Plant | None], Path], workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = deliver(None)
    assert run(["preflight", str(path), "--deep"]) == 0, capsys.readouterr().err
    step_zero_only = ["--allow-gate", "INV-INIT-LOSS-001=the twin is not trained"]
    code = run([*pretrain(workplace, tmp_path), "--init", str(path), *step_zero_only])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "run").is_dir()


def pretrain(workplace: Path, folder: Path) -> list[str]:
    data = ["--dataset", str(workplace / "corpus"), "--tokenizer", str(workplace / "tokenizer")]
    shape = ["--num-steps", "0", "--seq-length", "32", "--batch-size", "8", "--device", "cpu"]
    return ["pretrain", *data, *shape, "--run-dir", str(folder / "run")]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_run_from_a_gguf_file_is_refused_before_its_bytes_are_read(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model), token_count=8)
    vocabulary = "FALSIFY-APR-PRETRAIN-ARCH-009=the corpus has more tokens than this small file"
    facts = "INV-INIT-CONFIG-001=the vocabulary was cut for the test"
    allowed = ["--allow-gate", vocabulary, "--allow-gate", facts]
    assert run([*pretrain(workplace, tmp_path), "--init", str(path), *allowed]) == 5
    said = capsys.readouterr().err
    assert "the weights of a GGUF file are not loaded into a model" in said
    assert "start from the model that the GGUF file was made from" in said
    assert "reading every byte" not in said
    assert not (tmp_path / "run").exists()
