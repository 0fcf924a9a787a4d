"""How a run ended, as one document."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apr.training.guards import RunStatus
from apr.training.metrics import EvaluationMetrics, StepMetrics

SCHEMA = "apr.pretrain/1"


@dataclass
class RunResult:
    """The account of a run, kept while it goes on (upstream's keys, then ours; `docs/training.md`, "Answer").

    step0: evaluation before any update. passes: how many times the data was begun. notes: what was said on the way.
    """

    run_directory: Path
    initial_digest: str
    target_validation_loss: float
    step0: EvaluationMetrics
    status: RunStatus = RunStatus.BUDGET_EXHAUSTED
    detail: str = ""
    epochs: list[EvaluationMetrics] = field(default_factory=list)
    steps: list[StepMetrics] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    passes: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def final_validation_loss(self) -> float | None:
        """The last one measured after an update; None when no epoch was finished."""
        return self.epochs[-1].val_loss if self.epochs else None

    @property
    def best_validation_loss(self) -> float | None:
        return min((each.val_loss for each in self.epochs), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "detail": self.detail,
            "final_val_loss": self.final_validation_loss,
            "best_val_loss": self.best_validation_loss,
            "target_val_loss": self.target_validation_loss,
            "epochs_completed": len(self.epochs),
            "steps_recorded": len(self.steps),
            "val_loss_history": [each.val_loss for each in self.epochs],
            "per_step_metrics": [
                {key: value for key, value in each.to_json().items() if key != "kind"} for each in self.steps
            ],
            "step0_val_loss": self.step0.val_loss,
            "validation_set_hash": self.step0.validation_set_hash,
            "initial_weights_digest": self.initial_digest,
            "run_dir": str(self.run_directory),
            "checkpoints": [str(path) for path in self.checkpoints],
            "data_passes": self.passes,
            "notes": list(self.notes),
        }
