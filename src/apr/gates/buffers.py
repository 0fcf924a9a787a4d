"""INV-INIT-BUFFERS-001: non-persistent buffers are recomputed and equal to the CPU reference."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status

ID = "INV-INIT-BUFFERS-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    report = facts.buffers
    if report is None:
        yield Finding(ID, Status.UNCHECKED, "no model was loaded")
        return
    for problem in report.problems:
        yield Finding(
            ID,
            Status.REFUSE,
            f"the derived buffer {problem.name} differs from a fresh one",
            expected=problem.expected,
            found=problem.found
            if problem.largest_difference is None
            else f"{problem.found}, off by up to {problem.largest_difference:.3g}",
        )
    if not report.problems:
        count = len(report.compared)
        yield Finding(ID, Status.PASS, f"{count} derived buffers equal the reference")


GATE = Gate(ID, "derived buffers equal the reference", Stage.RESIDENT, _check)
