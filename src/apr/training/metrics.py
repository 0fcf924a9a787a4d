"""What a run measures, each number defined once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST_PERPLEXITY_LOSS = 700.0


def next_token_loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed next-token cross-entropy in nats, computed in float32: the one definition of loss in this program.

    logits: [tokens, vocabulary] of any float dtype, the model's answer at each position. targets: [tokens], the id
    that really came next. Every loss shown or recorded is this sum over its tokens divided by their number.
    """
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def next_token_loss_with_gradient(
    logits: torch.Tensor, targets: torch.Tensor, divisor: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`next_token_loss_sum` over `divisor`, and its gradient by the logits, in their dtype; nothing is tracked.

    The gradient of a summed cross-entropy is softmax minus one-hot, so it is made in place of the log-probabilities:
    one array of the logits' size where autograd takes three, which on a CPU costs as much as the arithmetic.
    """
    import torch

    with torch.no_grad():
        work = torch.log_softmax(logits.detach().float(), dim=-1)
        column = targets.unsqueeze(-1)
        loss = -work.gather(-1, column).sum() / divisor
        gradient = work.exp_()
        gradient.scatter_add_(-1, column, torch.full_like(column, -1, dtype=gradient.dtype))
        gradient.mul_(1.0 / divisor)
        return loss, gradient.to(logits.dtype)


def perplexity(loss: float) -> float:
    """exp(loss), infinity where a float cannot hold it."""
    return math.exp(loss) if loss < LARGEST_PERPLEXITY_LOSS else math.inf


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One update, as logged.

    train_loss: nats per token of this batch, before the update. grad_norm: global L2 norm over all parameters before
    clipping. lr: read back from the optimizer's parameter groups. tokens_per_sec: target tokens of the step over
    its wall time. gpu_util_pct: from the driver, None where there is none. wall_ms: data, forward, backward, update.
    """

    step: int
    epoch: int
    train_loss: float
    grad_norm: float
    lr: float
    tokens_per_sec: float
    gpu_util_pct: float | None
    wall_ms: float
    tokens_seen: int

    def to_json(self) -> dict[str, Any]:
        return {"kind": "step", **asdict(self)}


@dataclass(frozen=True, slots=True)
class EvaluationMetrics:
    """One evaluation on the validation set; step 0 is before any update, epoch None then."""

    step: int
    epoch: int | None
    val_loss: float
    tokens: int
    validation_set_hash: str
    wall_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": "evaluation", **asdict(self), "val_ppl": perplexity(self.val_loss)}
