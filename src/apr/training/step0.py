"""The evaluation at true step 0 against what the checkpoint recorded, or against a uniform guess."""

from __future__ import annotations

import math

from apr.gates.facts import Fresh, Step0
from apr.gates.finding import Finding, Status
from apr.gates.road import check_step0, refuse_unless_accepted
from apr.gates.step0_loss import ID
from apr.loading.probe import loss_tolerance
from apr.training.metrics import EvaluationMetrics
from apr.training.prepare import Prepared


def judge_step0(prepared: Prepared, step0: EvaluationMetrics, fresh: Fresh) -> None:
    """Add the findings of step 0 to `prepared`; RefusedError when a gate refuses.

    fresh: what optimizer and schedule hold. A run from scratch has nothing to be held against: its loss is noted.
    """
    if prepared.examination is None:
        prepared.findings = (*prepared.findings, _untrained(prepared, step0))
        return
    measured = Step0(step0.val_loss, step0.validation_set_hash, prepared.vocabulary_rows, _tolerance(prepared))
    examination = check_step0(prepared.examination, measured, fresh)
    spoken = len(prepared.examination.findings)
    prepared.findings = (*prepared.findings, *examination.findings[spoken:])
    prepared.examination = examination
    refuse_unless_accepted(examination)


def _tolerance(prepared: Prepared) -> float:
    """That of the coarser of the two dtypes, recorded and resident."""
    checkpoint = prepared.examination.facts.checkpoint if prepared.examination is not None else None
    training = checkpoint.recorded.training if checkpoint is not None else None
    resident = str(prepared.model.dtype).removeprefix("torch.")
    return loss_tolerance(resident, training.dtype if training is not None else None)


def _untrained(prepared: Prepared, step0: EvaluationMetrics) -> Finding:
    """The control of a run from scratch: an untrained model is near a uniform guess, or something is wrong."""
    uniform = math.log(prepared.vocabulary_rows)
    shown = f"step-0 loss {step0.val_loss:.4f}, a uniform guess {uniform:.4f}"
    return Finding(ID, Status.UNCHECKED, f"a run from scratch has no recorded loss; {shown}")
