"""One update: gradients of a whole batch, in micro-batches if asked, clipped, guarded, applied."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr.errors import UsageError
from apr.training.data import TrainingWindows
from apr.training.devices import UtilisationMeter
from apr.training.evaluation import to_device
from apr.training.guards import check_step
from apr.training.metrics import StepMetrics
from apr.training.optimizer import Optimizer
from apr.training.options import Settings
from apr.training.token_loss import TokenLoss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepContext:
    """What every update of a run shares."""

    settings: Settings
    data: TrainingWindows
    loss: TokenLoss
    optimizer: Optimizer
    device: str
    meter: UtilisationMeter


def train_step(context: StepContext, step: int) -> StepMetrics:
    """Update `step` (from 1): its windows, its learning rate, its metrics.

    Micro-batches divide by the tokens of the whole batch, so their gradients add up to that of the batch. Loss and
    gradient norm are looked at before the optimizer moves: one that is not finite raises GuardStopError
    (INV-TRAIN-007) and leaves the weights as they were. Raises UsageError when the batch does not fit into memory.
    """
    import torch

    started_s = time.perf_counter()
    settings, optimizer = context.settings, context.optimizer
    windows = to_device(context.data.batch(step, settings.batch_size), context.loss.vocabulary_rows, context.device)
    try:
        total = _accumulate(context, windows)
        norm = optimizer.clip()
        loss, gradient_norm = torch.stack([total.float(), norm.to(total.device).float()]).tolist()
    except torch.OutOfMemoryError as error:
        optimizer.drop_gradients()
        raise UsageError(
            "one micro-batch does not fit into the memory of the device",
            where=f"step {step}",
            found=str(error).splitlines()[0][:200],
            remedy=f"--micro-batch-size {max(1, settings.micro_batch_size // 2)}; batch and gradient stay equal",
        ) from error
    try:
        check_step(step, loss, gradient_norm)
    except BaseException:
        optimizer.drop_gradients()
        raise
    applied = optimizer.step(settings.schedule.learning_rate(step))
    elapsed_s = time.perf_counter() - started_s
    return StepMetrics(
        step=step,
        epoch=(step - 1) // settings.steps_per_epoch,
        train_loss=loss,
        grad_norm=gradient_norm,
        lr=applied,
        tokens_per_sec=settings.tokens_per_step / elapsed_s,
        gpu_util_pct=context.meter.read(),
        wall_ms=1000 * elapsed_s,
        tokens_seen=step * settings.tokens_per_step,
    )


def _accumulate(context: StepContext, windows: torch.Tensor) -> torch.Tensor:
    """Gradients of the mean loss over all targets of `windows`, which is given back."""
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    parts = windows.split(context.settings.micro_batch_size)
    total = context.loss.backward(parts[0], tokens)
    for part in parts[1:]:
        total = total + context.loss.backward(part, tokens)
    return total
