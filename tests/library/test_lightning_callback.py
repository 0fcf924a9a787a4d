"""`apr.lightning.VerifyCallback` in the real Lightning `Trainer`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import apr.lightning
from apr.errors import UsageError
from tests.library.conftest import refusal_of

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed (pip install 'apr[lightning]')")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(pl.LightningModule):  # type: ignore[misc]
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.steps = 0

    def training_step(self, batch: Any, index: int) -> Any:
        self.steps += 1
        return self.model(**batch).loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


@pytest.fixture
def fit(batches: list[dict[str, Any]], tmp_path: Path) -> Callable[..., Any]:
    def start(module: Any, callback: Any, *, has_validation: bool = True, **options: Any) -> Any:
        trainer = pl.Trainer(
            max_steps=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
            default_root_dir=tmp_path,
            **options,
        )
        loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(module, loader, loader if has_validation else None)
        return trainer

    return start


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def test_fit_runs_from_the_named_weights(fit: Callable[..., Any], trained: Path, recorded_loss: float) -> None:
    callback: Any = apr.lightning.VerifyCallback(trained, expected_loss=recorded_loss)
    assert isinstance(callback, pl.Callback)
    module = Module(load(trained))
    fit(module, callback)
    assert module.steps == 2
    assert callback.start.receipt.tensors_written == 27
    assert callback.start.loss == pytest.approx(recorded_loss, rel=1e-5)
    assert [finding.status.value for finding in callback.start.findings] == ["pass", "pass"]


def test_a_seeded_fit_is_the_same_fit_with_the_callback(fit: Callable[..., Any], trained: Path) -> None:
    class Logged(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            loss = super().training_step(batch, index)
            losses.append(float(loss))
            return loss

    def run(callback: Any) -> list[float]:
        losses.clear()
        pl.seed_everything(5, verbose=False)
        from transformers import AutoModelForCausalLM

        fit(Logged(AutoModelForCausalLM.from_pretrained(trained, attention_dropout=0.3).train()), callback)
        return list(losses)

    losses: list[float] = []
    assert run(apr.lightning.VerifyCallback(trained)) == run(pl.Callback())


@pytest.mark.parametrize("limit", [{"limit_val_batches": 2}, {"fast_dev_run": 2}])
def test_as_many_batches_are_measured_as_the_trainer_validates_on(
    trained: Path, batches: list[dict[str, Any]], tmp_path: Path, limit: dict[str, Any]
) -> None:
    drawn = 0

    class Endless(torch.utils.data.IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Any:
            nonlocal drawn
            while True:
                drawn += 1
                assert drawn < 100
                yield batches[drawn % len(batches)]

    callback: Any = apr.lightning.VerifyCallback(trained)
    trainer = pl.Trainer(
        **{"max_steps": 1, **limit},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(Module(load(trained)), loader, torch.utils.data.DataLoader(Endless(), batch_size=None))
    assert callback.start.loss is not None


def test_without_validation_batches_the_loss_is_said_to_be_unchecked(fit: Callable[..., Any], trained: Path) -> None:
    callback: Any = apr.lightning.VerifyCallback(trained)
    fit(Module(load(trained)), callback, has_validation=False)
    assert callback.start.loss is None
    assert callback.start.findings[0].status.value == "unchecked"


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_other_weights_stop_fit_before_a_step(fit: Callable[..., Any], trained: Path, qwen2: Path) -> None:
    module = Module(load(qwen2))
    error = refusal_of(lambda: fit(module, apr.lightning.VerifyCallback(trained)))
    assert error.invariant == "INV-INIT-RECEIPT-001"
    assert module.steps == 0


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_another_loss_stops_fit_before_a_step(fit: Callable[..., Any], trained: Path, recorded_loss: float) -> None:
    module = Module(load(trained))
    callback = apr.lightning.VerifyCallback(trained, expected_loss=recorded_loss * 1.01)
    assert refusal_of(lambda: fit(module, callback)).invariant == "INV-INIT-LOSS-001"
    assert module.steps == 0


def test_a_module_of_ones_own_is_proven_under_a_name_map(
    fit: Callable[..., Any], trained: Path, recorded_loss: float
) -> None:
    callback: Any = apr.lightning.VerifyCallback(
        trained / "model.safetensors", module="", name_map=lambda name: f"model.{name}"
    )
    fit(Module(load(trained)), callback)
    assert callback.start.receipt.tensors_written == 27
    assert "give loss_of" in callback.start.findings[0].message
    callback = apr.lightning.VerifyCallback(
        trained / "model.safetensors",
        module="",
        name_map=lambda name: f"model.{name}",
        loss_of=lambda module, batch: module.model(**batch).loss,
        expected_loss=recorded_loss,
    )
    fit(Module(load(trained)), callback)
    assert callback.start.loss == pytest.approx(recorded_loss, rel=1e-5)


def test_a_module_that_is_not_there_is_a_wrong_call(fit: Callable[..., Any], trained: Path) -> None:
    with pytest.raises(UsageError, match="has no module 'network'"):
        fit(Module(load(trained)), apr.lightning.VerifyCallback(trained, module="network"))


def test_the_older_package_gets_a_callback_of_its_own() -> None:
    older = pytest.importorskip("pytorch_lightning")
    from apr.library.lightning_callback import _callback_class_of

    assert issubclass(_callback_class_of(older.Callback), older.Callback)
    assert _callback_class_of(older.Callback) is _callback_class_of(older.Callback)
