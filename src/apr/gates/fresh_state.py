"""FALSIFY-APR-PRETRAIN-INIT-009: optimizer and schedule start fresh under --init."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status

ID = "FALSIFY-APR-PRETRAIN-INIT-009"


def _check(facts: InitFacts) -> Iterable[Finding]:
    fresh = facts.fresh
    if fresh is None:
        yield Finding(ID, Status.UNCHECKED, "no optimizer was built")
    elif fresh.optimizer_state_count or fresh.schedule_step:
        yield Finding(
            ID,
            Status.REFUSE,
            "optimizer or schedule carry state from elsewhere before the first step",
            expected="no optimizer state, schedule at step 0",
            found=f"{fresh.optimizer_state_count} optimizer tensors, schedule at step {fresh.schedule_step}",
        )
    else:
        yield Finding(ID, Status.PASS, "optimizer and schedule start fresh")


GATE = Gate(ID, "optimizer and schedule start fresh", Stage.STEP_0, _check)
