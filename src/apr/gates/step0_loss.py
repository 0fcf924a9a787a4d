"""INV-INIT-LOSS-001: the loss at true step 0 is the recorded one; without a record it beats a uniform guess."""

from __future__ import annotations

import math
from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage, Step0
from apr.gates.finding import Finding, Status

ID = "INV-INIT-LOSS-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    step0 = facts.step0
    if step0 is None:
        yield Finding(ID, Status.UNCHECKED, "no evaluation at step 0 took place")
        return
    uniform = math.log(step0.vocabulary_size)
    scale = f"ln({step0.vocabulary_size:,}) = {uniform:.4f}"
    training = facts.checkpoint.recorded.training if facts.checkpoint is not None else None
    recorded = training.validation_loss if training is not None else None
    is_same_set = training is not None and training.validation_set_hash == step0.validation_set_hash
    if not math.isfinite(step0.loss):
        yield Finding(ID, Status.REFUSE, "the loss at step 0 is not finite", f"below {scale}", f"{step0.loss}")
    elif recorded is not None and is_same_set:
        yield _continuity(step0, recorded, scale)
    elif step0.loss < uniform:
        why = "no loss is recorded" if recorded is None else "the recorded loss is of another validation set"
        yield Finding(ID, Status.PASS, f"the loss at step 0 is {step0.loss:.6f}, below {scale} ({why})")
    else:
        yield Finding(
            ID,
            Status.REFUSE,
            "the model knows no more than a uniform guess at step 0",
            expected=f"below {scale}",
            found=f"{step0.loss:.6f}",
            remedy="check that tokenizer and corpus belong to this model; for an untrained model run without --init",
        )


def _continuity(step0: Step0, recorded: float, scale: str) -> Finding:
    difference = abs(step0.loss - recorded) / max(abs(recorded), 1e-12)
    measured = f"{step0.loss:.6f} at step 0 against {recorded:.6f} recorded, off by {difference:.2e} relative; {scale}"
    if difference <= step0.tolerance_relative:
        return Finding(ID, Status.PASS, f"the loss continues where it was recorded: {measured}")
    return Finding(
        ID,
        Status.REFUSE,
        "the loss at step 0 is not the one the checkpoint recorded on the same validation set",
        expected=f"{recorded:.6f} within {step0.tolerance_relative:g} relative",
        found=measured,
        remedy="do not train: the model does not start from what was saved",
    )


GATE = Gate(ID, "the loss continues where the checkpoint left off", Stage.STEP_0, _check)
