"""`apr import --unwrap`: names that a wrapper changed are repaired on request, one to one, and every byte is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from apr.cli.main import run
from apr.convert.importing import import_checkpoint
from apr.errors import RefusedError, UsageError
from apr.formats.registry import open_checkpoint
from apr.gates.road import deepen, examine
from tests.convert.conftest import copied

WRAPPINGS: dict[str, Callable[[str], str]] = {
    "DDP": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "container": lambda name: f"model.{name}",
    "FSDP inside": lambda name: name.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."),
}


def wrapped(model: Path, target: Path, rename: Callable[[str], str]) -> Path:
    """A copy of `model` whose tensors have other names."""
    directory = copied(model, target)
    weights = directory / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return directory


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_model_becomes_the_model_it_was(models: dict[str, Path], tmp_path: Path, wrapping: str) -> None:
    directory = wrapped(models["qwen2"], tmp_path / "wrapped", WRAPPINGS[wrapping])
    refused = examine(directory)
    refused.close()
    assert not refused.is_accepted
    assert any("--unwrap -o" in (finding.remedy or "") for finding in refused.refusals)
    repaired = import_checkpoint(directory, tmp_path / "repaired.apr", unwraps=True)
    plain = import_checkpoint(models["qwen2"], tmp_path / "plain.apr")
    assert repaired.weights_digest == plain.weights_digest
    assert "were renamed" in repaired.notes[0]
    examination = deepen(examine(repaired.output))
    examination.close()
    assert examination.refusals == ()
    with open_checkpoint(repaired.output) as checkpoint:
        assert [entry["action"] for entry in checkpoint.recorded.history] == ["import"]
        assert "tensor names repaired" in checkpoint.recorded.history[0]["reason"]


def test_unasked_nothing_is_repaired(models: dict[str, Path], tmp_path: Path) -> None:
    directory = wrapped(models["qwen2"], tmp_path / "wrapped", WRAPPINGS["DDP"])
    with pytest.raises(RefusedError):
        import_checkpoint(directory, tmp_path / "x.apr")
    assert not (tmp_path / "x.apr").exists()


def test_healthy_names_are_not_touched(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already") as caught:
        import_checkpoint(models["qwen2"], tmp_path / "x.apr", unwraps=True)
    assert caught.value.remedy == "leave out --unwrap"
    assert not (tmp_path / "x.apr").exists()


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_two_names_that_would_become_one_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    directory = wrapped(models["qwen2"], tmp_path / "wrapped", WRAPPINGS["torch.compile"])
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    save_file({**tensors, name.removeprefix("_orig_mod."): tensors[name] + 1}, weights, {"format": "pt"})
    with pytest.raises(RefusedError, match="no renaming that wrappers make") as caught:
        import_checkpoint(directory, tmp_path / "x.apr", unwraps=True)
    assert "_orig_mod" in str(caught.value.found)
    assert not (tmp_path / "x.apr").exists()


def test_a_model_that_lacks_a_tensor_is_not_completed_by_renaming(models: dict[str, Path], tmp_path: Path) -> None:
    directory = wrapped(models["qwen2"], tmp_path / "wrapped", WRAPPINGS["DDP"])
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop(next(name for name in tensors if "down_proj" in name))
    save_file(tensors, weights, {"format": "pt"})
    assert run(["import", str(directory), "-o", str(tmp_path / "x.apr"), "--unwrap"]) == 5
    assert not (tmp_path / "x.apr").exists()
