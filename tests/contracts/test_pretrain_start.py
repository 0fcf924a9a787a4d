"""How a run says what it started from: `--init` or nothing, measured before the first update."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from tests.tiny_models import save_tiny

VOCABULARY = 320


def pretrain(workplace: Path, folder: Path, *more: str) -> int:
    data = ["--dataset", str(workplace / "corpus"), "--tokenizer", str(workplace / "tokenizer")]
    shape = ["--seq-length", "32", "--batch-size", "8", "--device", "cpu", "--val-windows", "64"]
    return run(["pretrain", *data, *shape, "--run-dir", str(folder / "run"), *more])


def run_record(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text())
    return document


def step_zero_loss(output: str) -> float:
    document = json.loads(output)
    loss: float = document["step0_val_loss"]
    return loss


@pytest.fixture
def clueless(untrained: Path, tmp_path: Path) -> Path:
    """The untrained model with a head so large that it is sure of its wrong guesses."""
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(untrained, tmp_path / "clueless")
    state = load_file(directory / "model.safetensors")
    state["lm_head.weight"] *= 30
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("untrained") / "qwen2", "qwen2", tie_word_embeddings=False)


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-001")
def test_init_needs_one_path_and_is_the_recorded_source(
    workplace: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(workplace, tmp_path, "--num-steps", "0", "--init") == 2
    assert "--init" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    allow = "INV-INIT-LOSS-001=it is not trained"
    assert pretrain(workplace, tmp_path, "--num-steps", "0", "--init", str(untrained), "--allow-gate", allow) == 0
    assert run_record(tmp_path)["parent"]["path"] == str(untrained)


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-002")
def test_without_init_a_run_has_no_parent_and_starts_at_the_loss_of_a_guess(
    workplace: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(untrained / "config.json")
    scratch = ["--config", config, "--num-steps", "2", "--steps-per-epoch", "2"]
    assert pretrain(workplace, tmp_path, *scratch, "--json") == 0
    assert step_zero_loss(capsys.readouterr().out) == pytest.approx(math.log(VOCABULARY), abs=0.25)
    assert run_record(tmp_path)["parent"] is None
    metadata = json.loads((tmp_path / "run" / "ckpt" / "epoch-000.metadata.json").read_text())
    assert metadata["parent_digest"] is None


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-006")
@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_the_first_loss_is_measured_before_any_update_and_a_random_model_is_refused(
    workplace: Path, clueless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(workplace, tmp_path, "--num-steps", "0", "--init", str(clueless)) == 5
    said = capsys.readouterr().err
    assert "INV-INIT-LOSS-001" in said
    assert f"ln({VOCABULARY}) = {math.log(VOCABULARY):.4f}" in said
    assert not (tmp_path / "run").exists()
