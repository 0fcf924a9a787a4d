"""`apr.hf.VerifyCallback` in the real `Trainer`: no step is taken from weights or a loss that nobody named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import apr.hf
from apr.errors import RefusedError
from tests.library.conftest import refusal_of
from tests.tiny_models import relabel

Rows = list[dict[str, Any]]


@pytest.fixture
def train(tmp_path: Path, rows: Rows) -> Callable[..., Any]:
    """Start the real Trainer on a model; returns it afterwards. It counts its optimizer steps in `state`."""
    from transformers import Trainer, TrainingArguments

    def start(
        model: Any, callback: Any = None, *, resume: Path | None = None, has_eval: bool = True, **arguments: Any
    ) -> Any:
        settings = TrainingArguments(
            **{
                "output_dir": str(tmp_path / "run"),
                "max_steps": 2,
                "save_strategy": "no",
                "per_device_train_batch_size": 8,
                "logging_strategy": "steps" if "logging_steps" in arguments else "no",
                "report_to": [],
                "use_cpu": True,
                "disable_tqdm": True,
                **arguments,
            }
        )
        trainer = Trainer(model, settings, train_dataset=rows, eval_dataset=rows if has_eval else None)
        trainer.model_before = {name: value.clone() for name, value in model.state_dict().items()}
        start.trainer = trainer  # type: ignore[attr-defined]
        if callback is not None:
            callback.attach(trainer)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer

    return start


def load(path: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, **options)


def refused_before_a_step(train: Callable[..., Any], *arguments: Any, **options: Any) -> RefusedError:
    """The refusal that stops training, after it was made sure that no weight has moved."""
    error = refusal_of(lambda: train(*arguments, **options))
    trainer = train.trainer  # type: ignore[attr-defined]
    if "resume" not in options:
        assert trainer.state.global_step == 0
        now = trainer.model.state_dict()
        assert all(torch.equal(now[name], value) for name, value in trainer.model_before.items())
    return error


def test_training_runs_from_the_named_weights(
    train: Callable[..., Any], trained: Path, recorded_loss: float, batches: Rows
) -> None:
    callback = apr.hf.VerifyCallback(trained)
    trainer = train(load(trained), callback)
    assert trainer.state.global_step == 2
    assert callback.start.receipt.tensors_written == 27
    assert callback.start.loss == pytest.approx(recorded_loss, rel=1e-5)
    assert [finding.status.value for finding in callback.start.findings] == ["pass", "pass"]


@pytest.mark.parametrize("way", ["attached", "added"])
def test_a_seeded_run_is_the_same_run_with_the_callback(train: Callable[..., Any], trained: Path, way: str) -> None:
    from transformers import set_seed

    class Added(apr.hf.VerifyCallback):
        def attach(self, trainer: Any) -> Any:
            trainer.add_callback(self)
            return self

    def losses(callback: Any) -> list[Any]:
        set_seed(5)
        model = load(trained, attention_dropout=0.3)
        trainer = train(model, callback, max_steps=4, per_device_train_batch_size=4, logging_steps=1, seed=5)
        return [{**row, "train_runtime": 0} for row in trainer.state.log_history if "loss" in row]

    plain = losses(None)
    assert len(plain) == 4
    assert losses(apr.hf.VerifyCallback(trained) if way == "attached" else Added(trained)) == plain


def test_the_expected_loss_is_the_one_the_trainer_reports(train: Callable[..., Any], trained: Path) -> None:
    reported = train(load(trained), max_steps=1, learning_rate=0.0).evaluate()["eval_loss"]
    callback = apr.hf.VerifyCallback(trained, expected_loss=reported)
    train(load(trained), callback)
    assert "the loss continues where it was recorded" in callback.start.findings[0].message


def test_the_expected_loss_holds_under_autocast(train: Callable[..., Any], trained: Path, recorded_loss: float) -> None:
    train(load(trained), apr.hf.VerifyCallback(trained, expected_loss=recorded_loss), bf16=True)


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_another_loss_than_the_expected_one_stops_the_run(
    train: Callable[..., Any], trained: Path, recorded_loss: float
) -> None:
    callback = apr.hf.VerifyCallback(trained, expected_loss=recorded_loss * 1.01)
    error = refused_before_a_step(train, load(trained), callback)
    assert error.invariant == "INV-INIT-LOSS-001"
    assert callback.start is None


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_weights_that_know_nothing_stop_the_run(train: Callable[..., Any], tmp_path: Path) -> None:
    from tests.tiny_models import tiny_model

    model = tiny_model("qwen2", initializer_range=1.0)
    model.save_pretrained(tmp_path / "random")
    error = refused_before_a_step(train, load(tmp_path / "random"), apr.hf.VerifyCallback(tmp_path / "random"))
    assert error.invariant == "INV-INIT-LOSS-001"
    assert "ln(320)" in str(error)


def test_a_loss_that_is_let_through_is_recorded_as_such(
    train: Callable[..., Any], trained: Path, recorded_loss: float
) -> None:
    reason = {"INV-INIT-LOSS-001": "the evaluation set changed"}
    callback = apr.hf.VerifyCallback(trained, expected_loss=recorded_loss * 2, allowed_gates=reason)
    train(load(trained), callback)
    assert "let through by the user (the evaluation set changed)" in callback.start.findings[0].message


def test_several_evaluation_sets_are_measured_one_after_the_other(trained: Path, rows: Rows, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = Trainer(load(trained), arguments, train_dataset=rows, eval_dataset={"a": rows[:8], "b": rows[8:]})
    callback = apr.hf.VerifyCallback(trained).attach(trainer)
    assert callback.validation is not None
    assert len(list(callback.validation())) == 2


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_model_initialised_again_stops_the_run(train: Callable[..., Any], trained: Path) -> None:
    model = load(trained)
    model.model.layers[0].mlp.down_proj.reset_parameters()
    error = refused_before_a_step(train, model, apr.hf.VerifyCallback(trained))
    assert error.invariant == "INV-INIT-RECEIPT-001"


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_mislabelled_source_stops_the_run(train: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = relabel(Path(shutil.copytree(trained, tmp_path / "copy")), "llama", "LlamaForCausalLM")
    error = refused_before_a_step(train, load(copy), apr.hf.VerifyCallback(copy))
    assert error.invariant == "INV-INIT-ARCH-MATCH-001"


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_another_source_than_the_loaded_one_stops_the_run(
    train: Callable[..., Any], trained: Path, qwen2: Path
) -> None:
    error = refused_before_a_step(train, load(trained), apr.hf.VerifyCallback(qwen2))
    assert error.invariant == "INV-INIT-RECEIPT-001"


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-009")
def test_an_optimizer_that_has_stepped_already_stops_the_run(train: Callable[..., Any], trained: Path) -> None:
    from transformers import TrainerCallback

    class StepsEarly(TrainerCallback):  # type: ignore[misc]
        def attach(self, trainer: Any) -> None:
            trainer.add_callback(self)
            apr.hf.VerifyCallback(trained).attach(trainer)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model, optimizer = kwargs["model"], kwargs["optimizer"]
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
            optimizer.step()
            optimizer.zero_grad()

    assert refused_before_a_step(train, load(trained), StepsEarly()).invariant == "FALSIFY-APR-PRETRAIN-INIT-009"


def test_without_a_validation_set_the_weights_are_proven_and_the_loss_is_said_to_be_unchecked(
    train: Callable[..., Any], trained: Path
) -> None:
    callback = apr.hf.VerifyCallback(trained)
    train(load(trained), callback, has_eval=False)
    assert callback.start.loss is None
    assert callback.start.findings[0].status.value == "unchecked"
    assert "there is no validation set" in callback.start.findings[0].message


def test_a_resumed_run_is_held_against_its_checkpoint(train: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    train(load(trained), apr.hf.VerifyCallback(trained), save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    callback = apr.hf.VerifyCallback(checkpoint)
    trainer = train(load(trained), callback, resume=checkpoint, max_steps=3)
    assert trainer.state.global_step == 3
    assert callback.start.receipt.source == str(checkpoint)
    error = refused_before_a_step(train, load(trained), apr.hf.VerifyCallback(trained), resume=checkpoint, max_steps=4)
    assert "the run was resumed at step 2" in str(error)


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_checkpoint_that_the_trainer_resumes_in_part_stops_the_run(
    train: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    """Trainer loads a checkpoint with `strict=False`: what it lacks stays as it was."""
    from safetensors.torch import load_file, save_file

    train(load(trained), save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    state = load_file(checkpoint / "model.safetensors")
    renamed = {name.replace("layers.1.", "layers._orig_mod.1."): value for name, value in state.items()}
    save_file(renamed, checkpoint / "model.safetensors", metadata={"format": "pt"})
    error = refused_before_a_step(
        train, load(trained), apr.hf.VerifyCallback(checkpoint), resume=checkpoint, max_steps=3
    )
    assert "INV-INIT-COVERAGE-001" in {finding["id"] for finding in error.findings}


def test_a_new_head_is_named_and_has_no_floor_to_beat(
    train: Callable[..., Any], trained: Path, tmp_path: Path, rows: Rows
) -> None:
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    model = AutoModelForSequenceClassification.from_pretrained(trained, num_labels=2)
    data = [{"input_ids": row["input_ids"], "labels": index % 2} for index, row in enumerate(rows)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    allowed = {"score.weight": "trained here", "lm_head.weight": "the classifier has no use for it"}
    callback = apr.hf.VerifyCallback(trained, allowed_tensors=allowed)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    callback.attach(trainer)
    trainer.train()
    assert callback.start.receipt.tensors_written == 26
    assert callback.start.findings[0].status.value == "unchecked"
