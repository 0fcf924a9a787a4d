"""INV-INIT-LOSS-001: the loss at true step 0 is the recorded one; without a record it clearly beats a uniform guess."""

from __future__ import annotations

import math
from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage, Step0
from apr.gates.finding import Finding, Status

ID = "INV-INIT-LOSS-001"
SMALLEST_GAIN = 0.03
"""Share of ln(vocabulary) by which a model without a record has to be below it. Luck takes many fresh models a little
below it, and token frequencies alone are worth 20 % and more (docs/training.md has the figures)."""


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
        return
    if recorded is not None and is_same_set:
        yield _continuity(step0, recorded, scale)
        return
    # A model that does what it did when it was saved may be as weak as it was then: no luck is at work.
    is_proven = facts.probe is not None and facts.probe.agrees
    floor = uniform if is_proven else (1 - SMALLEST_GAIN) * uniform
    if step0.loss < floor:
        why = "no loss is recorded" if recorded is None else "the recorded loss is of another validation set"
        yield Finding(ID, Status.PASS, f"the loss at step 0 is {step0.loss:.6f}, below {scale} ({why})")
    else:
        by_luck = ", no further below it than chance" if step0.loss < uniform else ""
        yield Finding(
            ID,
            Status.REFUSE,
            f"the model knows no more than a uniform guess at step 0{by_luck}",
            expected=f"below {scale}"
            if is_proven
            else f"below {floor:.4f}, which is {100 * SMALLEST_GAIN:g} % under {scale}",
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
