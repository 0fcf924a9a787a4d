"""Each act of the demo fails when what it claims is not so: one planted defect for each claim."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apr.demo import story as acts
from apr.demo.commands import CommandOutcome
from apr.demo.expectations import ExpectationFailedError, Expectations
from apr.demo.stamped_load import StampedLoad
from apr.demo.story import Story
from apr.errors import ExitCode
from apr.training.metrics import EvaluationMetrics
from apr.training.result import RunResult

STAMP_LINE = "apr stamp mislabelled.apr --architecture qwen2 -o mislabelled.qwen2.apr"
REFUSAL_TEXT = f"REFUSED INV-INIT-ARCH-MATCH-001 x\nREFUSED INV-INIT-COVERAGE-001 y\n  next: {STAMP_LINE}"
QUALITY_60 = '{"quality": {"score": 60, "breakdown": {"hf_identity": 20}}}'


def outcome(exit_code: int, answer: str = "", messages: str = "") -> CommandOutcome:
    return CommandOutcome("apr ...", exit_code, answer, messages, 0.1)


def result(step0: float, *epochs: float) -> RunResult:
    def measured(step: int, epoch: int | None, loss: float) -> EvaluationMetrics:
        return EvaluationMetrics(step, epoch, loss, 512, "blake3:set", 1.0)

    return RunResult(
        run_directory=Path("run"),
        initial_digest="blake3:start",
        target_validation_loss=1.0,
        step0=measured(0, None, step0),
        epochs=[measured(10 * (epoch + 1), epoch, loss) for epoch, loss in enumerate(epochs)],
        checkpoints=[Path("run/ckpt/epoch-000.apr")],
    )


def answers(monkeypatch: pytest.MonkeyPatch, *outcomes: CommandOutcome, leaves: Path | None = None) -> None:
    """Let the next commands of the demo end as `outcomes` say; the first one leaves a directory if asked to."""
    remaining = list(outcomes)

    def run(_arguments: Sequence[str], _directory: Path) -> CommandOutcome:
        if leaves is not None:
            leaves.mkdir(exist_ok=True)
        return remaining.pop(0)

    monkeypatch.setattr(acts, "run_apr", run)


def test_a_failed_claim_says_both_sides_and_exits_as_a_refusal() -> None:
    expectations = Expectations()
    expectations.expect_equal("one is one", 1, 1)
    with pytest.raises(ExpectationFailedError, match="the demo's claim does not hold: one is two") as caught:
        expectations.expect_equal("one is two", 2, 1)
    assert (caught.value.expected, caught.value.found) == ("2", "1")
    assert caught.value.exit_code is ExitCode.REFUSED
    assert [each.holds for each in expectations.made] == [True, False]


def test_the_refusal_act_holds_for_a_refusal(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, outcome(5, messages=REFUSAL_TEXT))
    acts.be_refused(story)
    assert all(each.holds for each in story.expectations.made)


@pytest.mark.parametrize(
    ("ending", "claim"),
    [
        (outcome(0, answer="BUDGET_EXHAUSTED"), "pretrain --init refuses"),
        (outcome(1, messages=REFUSAL_TEXT), "pretrain --init refuses"),
        (outcome(5, messages="REFUSED chinchilla-gate INV-001"), "the refusal names the gates"),
        (outcome(5, messages=REFUSAL_TEXT.replace("INV-INIT-COVERAGE-001", "")), "the refusal names the gates"),
    ],
    ids=["let through", "crashed", "refused for another reason", "one gate silent"],
)
def test_a_gate_that_lets_the_copy_through_fails_the_demo(
    story: Story, monkeypatch: pytest.MonkeyPatch, ending: CommandOutcome, claim: str
) -> None:
    answers(monkeypatch, ending)
    with pytest.raises(ExpectationFailedError, match=claim):
        acts.be_refused(story)


def test_a_refusal_that_leaves_a_run_directory_fails_the_demo(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, outcome(5, messages=REFUSAL_TEXT), leaves=story.path("resumed"))
    with pytest.raises(ExpectationFailedError, match="no run directory"):
        acts.be_refused(story)


def stamped(**changes: Any) -> StampedLoad:
    same = StampedLoad("LlamaForCausalLM", "transformers", "", (), tuple("abcdef"), 26, 6.0, "blake3:set")
    return replace(same, **changes)


@pytest.mark.parametrize(
    ("load", "claim"),
    [
        (stamped(loaded_as="Qwen2ForCausalLM"), "loads the copy as it is stamped"),
        (stamped(unused=("a",)), "the biases are what it never asks for"),
        (stamped(validation_set_hash="blake3:other"), "same validation windows"),
        (stamped(validation_loss=5.0), "starts from a worse model"),
        (stamped(validation_loss=float("nan")), "starts from a worse model"),
    ],
)
def test_a_load_as_stamped_that_is_none_fails_the_demo(
    story: Story, monkeypatch: pytest.MonkeyPatch, load: StampedLoad, claim: str
) -> None:
    monkeypatch.setattr(acts, "write_as_stamped", lambda *_: None)
    monkeypatch.setattr(acts, "load_as_stamped", lambda *_: load)
    story.trained, story.biases_drawn = result(6.4, 5.0), 6
    with pytest.raises(ExpectationFailedError, match=claim):
        acts.load_as_others_do(story)


@pytest.mark.parametrize(
    ("outcomes", "digest", "claim"),
    [
        ((outcome(5),), "same", "the printed command succeeds"),
        ((outcome(0), outcome(0, QUALITY_60)), "other", "the stamp changes no tensor"),
        ((outcome(0), outcome(0, QUALITY_60.replace("60", "40"))), "same", "quality after the stamp"),
        ((outcome(0), outcome(0, QUALITY_60.replace("20", "12"))), "same", "hf_identity points after the stamp"),
    ],
)
def test_a_repair_that_is_none_fails_the_demo(
    story: Story, monkeypatch: pytest.MonkeyPatch, outcomes: tuple[CommandOutcome, ...], digest: str, claim: str
) -> None:
    answers(monkeypatch, *outcomes)
    monkeypatch.setattr(acts, "stored_digest", lambda _path: digest)
    story.refusal, story.weights_digest = outcome(5, messages=REFUSAL_TEXT), "same"
    with pytest.raises(ExpectationFailedError, match=claim):
        acts.repair(story)


def test_a_refusal_without_a_way_out_fails_the_demo(story: Story) -> None:
    story.refusal = outcome(5, messages="REFUSED INV-INIT-ARCH-MATCH-001")
    with pytest.raises(ExpectationFailedError, match="prints the command that repairs"):
        acts.repair(story)


@pytest.mark.parametrize(
    ("resumed", "claim"),
    [
        (result(5.01, 4.0), "starts at the recorded loss"),
        (result(4.99, 4.0), "starts at the recorded loss"),
        (result(float("nan"), 4.0), "starts at the recorded loss"),
        (result(5.0, 5.1), "goes on improving"),
        (result(5.0), "goes on improving"),
    ],
)
def test_a_resumed_run_that_does_not_continue_fails_the_demo(
    story: Story, monkeypatch: pytest.MonkeyPatch, resumed: RunResult, claim: str
) -> None:
    monkeypatch.setattr(acts, "pretrain", lambda *_: resumed)
    story.trained, story.repaired = result(6.4, 5.0), "mislabelled.qwen2.apr"
    with pytest.raises(ExpectationFailedError, match=claim):
        acts.resume(story)


@pytest.mark.parametrize(
    ("stamped_class", "shown_class", "preflight_code", "lineage", "claim"),
    [
        ("LlamaForCausalLM", "Qwen2ForCausalLM", 0, "true", "stamped right"),
        ("Qwen2ForCausalLM", "LlamaForCausalLM", 0, "true", "its tensors are those of that class"),
        ("Qwen2ForCausalLM", "Qwen2ForCausalLM", 5, "true", "accepted by the next run"),
        ("Qwen2ForCausalLM", "Qwen2ForCausalLM", 0, "false", "lineage"),
    ],
)
def test_a_second_generation_that_is_mislabelled_fails_the_demo(
    story: Story,
    monkeypatch: pytest.MonkeyPatch,
    stamped_class: str,
    shown_class: str,
    preflight_code: int,
    lineage: str,
    claim: str,
) -> None:
    story.resumed = result(5.0, 4.0)
    story.resumed.checkpoints = [story.path("resumed/ckpt/epoch-000.apr")]
    inspected = {
        "metadata": {"hf_architecture": stamped_class},
        "verdict": {"candidates": [{"class_name": shown_class}]},
    }
    endings = (outcome(0, json.dumps(inspected)), outcome(preflight_code), outcome(0, f'{{"is_complete": {lineage}}}'))
    answers(monkeypatch, *endings)
    with pytest.raises(ExpectationFailedError, match=claim):
        acts.look_at_second_generation(story)
