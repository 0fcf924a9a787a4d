"""A planted defect is refused by every call of the library alike, with the id that the command line gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apr
import apr.hf
from tests.contracts.test_every_path import (
    Plant,
    as_llama,
    transposed,
    with_a_stranger,
    with_two_labels,
    without_a_norm,
    zeroed,
)
from tests.library.conftest import refusing_ids


def auto() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def by_load_verified(path: Path) -> None:
    apr.load_verified(None, path)


def by_strict_from_pretrained(path: Path) -> None:
    apr.hf.from_pretrained(auto(), path, ignore_mismatched_sizes=True)


def in_a_strict_block(path: Path) -> None:
    with apr.hf.strict():
        auto().from_pretrained(path, ignore_mismatched_sizes=True)


def by_verify_loaded(path: Path) -> None:
    apr.verify_loaded(auto().from_pretrained(path, ignore_mismatched_sizes=True), path)


def in_the_trainer(path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = auto().from_pretrained(path, ignore_mismatched_sizes=True)
    arguments = TrainingArguments(
        output_dir=str(path / "run"), max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    import torch

    row = torch.arange(8)
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row}])
    apr.hf.VerifyCallback(path).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 1


ROADS = [by_load_verified, by_strict_from_pretrained, in_a_strict_block, by_verify_loaded, in_the_trainer]
DEFECTS = [
    (as_llama, "INV-INIT-ARCH-MATCH-001"),
    (with_two_labels, "INV-STAMP-AGREE-001"),
    (without_a_norm, "INV-INIT-COVERAGE-001"),
    (with_a_stranger, "INV-INIT-COVERAGE-001"),
    (transposed, "INV-INIT-SHAPE-001"),
    (zeroed, "INV-INIT-VALUES-001"),
]


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(("plant", "gate"), DEFECTS)
def test_a_defect_is_refused_on_every_road(
    qwen2: Path, tmp_path: Path, plant: Plant, gate: str, road: Callable[[Path], None]
) -> None:
    path = Path(shutil.copytree(qwen2, tmp_path / "model"))
    plant(path)
    assert gate in {finding.id for finding in apr.preflight(path, deep=True).refusals}
    assert gate in refusing_ids(lambda: road(path))


@pytest.mark.parametrize("road", ROADS)
def test_the_clean_twin_passes_on_every_road(qwen2: Path, tmp_path: Path, road: Callable[[Path], None]) -> None:
    road(Path(shutil.copytree(qwen2, tmp_path / "model")))
