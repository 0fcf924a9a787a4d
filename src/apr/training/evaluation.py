"""The loss on the validation set, by the one definition of loss, in memory that does not grow with the set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from apr.errors import InterruptedRunError, RefusedError
from apr.training.metrics import EvaluationMetrics
from apr.training.token_loss import TokenLoss

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedModel

    from apr.training.data import ValidationSet

# Tokens in one forward: enough to keep the arithmetic busy, few enough that activations stay small.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}


class EvaluationStoppedError(InterruptedRunError):
    """The user asked to stop while an evaluation was running."""


def to_device(windows: numpy.ndarray, vocabulary_rows: int, device: torch.device | str) -> torch.Tensor:
    """Token windows as an int64 tensor on `device`; RefusedError (INV-CORPUS-RANGE-001) for an id that the model has no
    embedding for, before it reaches a kernel."""
    import torch

    largest = int(windows.max())
    if largest >= vocabulary_rows:
        raise RefusedError(
            "the data holds an id that the model has no embedding for",
            expected=f"ids from 0 to {vocabulary_rows - 1}",
            found=f"id {largest}",
            remedy="encode the corpus with the model's tokenizer",
            invariant="INV-CORPUS-RANGE-001",
        )
    return torch.from_numpy(windows).to(device, non_blocking=True)


def evaluate(
    model: PreTrainedModel,
    loss: TokenLoss,
    validation: ValidationSet,
    *,
    step: int,
    epoch: int | None,
    should_stop: Callable[[], bool],
) -> EvaluationMetrics:
    """Mean loss in nats over every target token of `validation`, the model in eval mode meanwhile.

    The value may be infinite or NaN: the caller judges it. Raises EvaluationStoppedError when `should_stop` says so.
    """
    started_s = time.perf_counter()
    device = next(model.parameters()).device
    length = validation.windows.sequence_length
    was_training = model.training
    model.eval()
    sums: list[float] = []
    try:
        for windows in validation.batches(max(1, BATCH_TOKENS[device.type] // length)):
            sums.append(loss.evaluate(to_device(windows, loss.vocabulary_rows, device)))
            if should_stop():
                raise EvaluationStoppedError("stopped during an evaluation")
    finally:
        model.train(was_training)
    tokens = len(validation) * length
    total = math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan
    return EvaluationMetrics(
        step=step,
        epoch=epoch,
        val_loss=total / tokens,
        tokens=tokens,
        validation_set_hash=validation.hash,
        wall_ms=1000 * (time.perf_counter() - started_s),
    )
