"""Learning rate over steps, and the two regimes that choose the values nobody named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """A regime of training; sets learning rate, warm-up, target and epoch-0 cap together (INV-TRAIN-009)."""

    FINETUNE = "finetune"
    FROM_SCRATCH = "from-scratch"


@dataclass(frozen=True, slots=True)
class Regime:
    """Values a mode stands for; an explicit flag beats each. epoch_zero_cap: None means 2 ln(vocabulary)."""

    learning_rate: float
    warmup_steps: int
    target_validation_loss: float
    epoch_zero_cap: float | None


# Source: upstream's two regimes, `docs/training.md`, "Regimes".
REGIMES = {
    Mode.FINETUNE: Regime(5e-5, 100, 2.2, 10.0),
    Mode.FROM_SCRATCH: Regime(3e-4, 1000, 3.0, None),
}
SMALLEST_LEARNING_RATE = 1e-7


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up to `peak`, then a half cosine down to `floor` at the last step."""

    peak: float
    warmup_steps: int
    total_steps: int

    @property
    def floor(self) -> float:
        """max(peak / 100, 1e-7), but never above the peak."""
        return min(self.peak, max(self.peak / 100, SMALLEST_LEARNING_RATE))

    def learning_rate(self, step: int) -> float:
        """The rate applied at update `step`, counted from 1; step `warmup_steps` applies the peak."""
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        decay_steps = self.total_steps - self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / decay_steps) if decay_steps > 0 else 1.0
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))
