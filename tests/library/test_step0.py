"""The evaluation at step 0: one definition, the Trainer's, and the gate's judgement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from apr.gates.finding import Status
from apr.library.step0 import Measured, judge_loss, measure_loss, predicted_vocabulary


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def test_the_loss_is_the_mean_over_samples(trained: Path, batches: list[dict[str, Any]], recorded_loss: float) -> None:
    model = load(trained).train()
    measured = measure_loss(model, batches)
    assert measured is not None
    assert measured.loss == pytest.approx(recorded_loss, rel=1e-6)
    assert measured.samples == 16
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_module_keeps_its_mode_and_the_random_state_is_the_former_one(
    trained: Path, batches: list[dict[str, Any]]
) -> None:
    from apr.loading.probe import run_tokens

    model = load(trained).train()
    model.model.layers[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    measured = measure_loss(model, loader)
    assert measured is not None
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    run_tokens(model, [[1, 2, 3, 4]])
    assert [module.training for module in model.modules()] == modes


def test_a_short_last_batch_counts_by_its_samples(trained: Path, batches: list[dict[str, Any]]) -> None:
    model = load(trained).eval()
    short = [batches[0], {key: value[:2] for key, value in batches[1].items()}]
    with torch.no_grad():
        one, other = (float(model(**batch).loss) for batch in short)
    measured = measure_loss(model, short)
    assert measured is not None
    assert measured.loss == pytest.approx((8 * one + 2 * other) / 10, rel=1e-6)


def test_the_hash_is_of_the_batches(trained: Path, batches: list[dict[str, Any]]) -> None:
    model = load(trained)
    one, again, other = (measure_loss(model, each) for each in (batches, list(batches), batches[::-1]))
    assert one is not None
    assert again is not None
    assert other is not None
    assert one.set_hash == again.set_hash != other.set_hash


def test_batches_without_labels_are_measured_only_with_a_loss_of_ones_own(
    trained: Path, batches: list[dict[str, Any]]
) -> None:
    model = load(trained)
    bare = [{"input_ids": batch["input_ids"]} for batch in batches]
    assert measure_loss(model, bare) is None
    own = measure_loss(model, bare, lambda model, batch: model(**batch, labels=batch["input_ids"]).loss)
    assert own is not None
    assert own.samples == 16


def judged(loss: float, expected: float | None = None, vocabulary: int | None = 320) -> Status:
    measured = Measured(loss, 16, "blake3:00")
    findings = judge_loss(measured, vocabulary_size=vocabulary, expected_loss=expected, tolerance_relative=1e-3)
    assert {finding.id for finding in findings} == {"INV-INIT-LOSS-001"}
    return findings[0].status


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((3.0,), Status.PASS),
        ((math.log(320),), Status.REFUSE),
        ((float("nan"),), Status.REFUSE),
        ((float("inf"), None, None), Status.REFUSE),
        ((3.0, 3.0005), Status.PASS),
        ((3.0, 3.01), Status.REFUSE),
        ((8.6, 4.62), Status.REFUSE),
        ((9.0, 9.0), Status.PASS),
        ((1.1, None, None), Status.UNCHECKED),
        ((1.1, 1.1, None), Status.PASS),
        ((1.2, 1.1, None), Status.REFUSE),
    ],
)
def test_the_gate_compares_with_what_is_known(arguments: tuple[Any, ...], status: Status) -> None:
    assert judged(*arguments) is status


def test_without_an_evaluation_the_finding_says_why() -> None:
    finding = judge_loss(None, vocabulary_size=320, expected_loss=None, tolerance_relative=1e-3, note="no loader")[0]
    assert finding.status is Status.UNCHECKED
    assert "no loader" in finding.message


def test_the_vocabulary_is_that_of_models_which_predict_tokens(trained: Path) -> None:
    assert predicted_vocabulary(load(trained)) == 320
    assert predicted_vocabulary(load(trained).model) is None
    assert predicted_vocabulary(torch.nn.Linear(2, 2)) is None
