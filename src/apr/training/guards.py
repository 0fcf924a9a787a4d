"""Rules that stop a run: non-finite numbers, divergence, patience. Pure functions over measured losses.

Source of the thresholds: upstream's training contract (`docs/training.md`, "Guards"). None of them is configurable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from apr.errors import GuardStopError

PATIENCE_EPOCHS = 5
MINIMUM_EPOCHS = 3
DIVERGENCE_FACTOR = 2.0


class RunStatus(StrEnum):
    """How a run ended; never better than earned. INTERRUPTED: the user stopped it, a checkpoint may be left."""

    TARGET_MET = "TARGET_MET"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    EARLY_STOP = "EARLY_STOP"
    ABORTED = "ABORTED"
    INTERRUPTED = "INTERRUPTED"


def epoch_zero_cap(cap: float | None, vocabulary_rows: int) -> float:
    """The largest validation loss allowed after epoch 0: `cap`, or twice the loss of a uniform guess."""
    return 2 * math.log(vocabulary_rows) if cap is None else cap


def check_step(step: int, loss: float, gradient_norm: float) -> None:
    """Raise GuardStopError (INV-TRAIN-007) unless both numbers are finite; call before the optimizer moves."""
    for name, value in (("loss", loss), ("gradient norm", gradient_norm)):
        if not math.isfinite(value):
            raise GuardStopError(
                f"the {name} of step {step} is not finite; the optimizer was not run on it",
                where=f"step {step}",
                expected="a finite number",
                found=str(value),
                remedy="look at the data of this step, or lower --lr by a factor of 10",
                invariant="INV-TRAIN-007",
            )


def check_validation(losses: Sequence[float], cap: float) -> None:
    """Raise GuardStopError (INV-TRAIN-005, INV-TRAIN-007) when the last of the per-epoch `losses` says that the run
    diverged: not finite, above `cap` after epoch 0, or more than twice the epoch before (exactly twice is allowed)."""
    epoch, last = len(losses) - 1, losses[-1]
    if not math.isfinite(last):
        raise _diverged("INV-TRAIN-007", epoch, "a finite number", last)
    if epoch == 0 and last > cap:
        raise _diverged("INV-TRAIN-005", epoch, f"at most {cap:.4f} after epoch 0", last)
    if epoch > 0 and last > DIVERGENCE_FACTOR * losses[epoch - 1]:
        expected = f"at most twice the {losses[epoch - 1]:.4f} of epoch {epoch - 1}"
        raise _diverged("INV-TRAIN-005", epoch, expected, last)


def is_out_of_patience(losses: Sequence[float]) -> bool:
    """Whether more than PATIENCE_EPOCHS epochs passed since the best one, and at least MINIMUM_EPOCHS in all."""
    if len(losses) < MINIMUM_EPOCHS:
        return False
    best = min(range(len(losses)), key=lambda epoch: losses[epoch])
    return len(losses) - 1 - best > PATIENCE_EPOCHS


def earned_status(
    *, last_validation_loss: float | None, target: float, steps_done: int, is_early_stop: bool
) -> RunStatus:
    """The status of a run that was neither aborted nor interrupted: TARGET_MET only for a run that trained and whose
    last measured validation loss is at or below the target."""
    if steps_done and last_validation_loss is not None and last_validation_loss <= target:
        return RunStatus.TARGET_MET
    return RunStatus.EARLY_STOP if is_early_stop else RunStatus.BUDGET_EXHAUSTED


def _diverged(invariant: str, epoch: int, expected: str, found: float) -> GuardStopError:
    return GuardStopError(
        f"the run diverged: validation loss after epoch {epoch}",
        where=f"epoch {epoch}",
        expected=expected,
        found=f"{found:.4f}",
        remedy="lower --lr by a factor of 10, or look at the data; the last good checkpoint is kept",
        invariant=invariant,
    )
