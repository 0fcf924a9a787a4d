"""INV-INIT-ARCH-MATCH-001: the claimed architecture is what the tensors show."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import shown_value
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import account, repair_commands, uniform_guess
from apr.identity.types import Verdict, VerdictKind

ID = "INV-INIT-ARCH-MATCH-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    verdict = facts.verdict
    if verdict is None:
        yield Finding(ID, Status.UNCHECKED, "no header could be read")
    elif verdict.kind is VerdictKind.MATCH:
        yield Finding(ID, Status.PASS, f"the tensors show what is claimed: {verdict.claim.architecture}")
    elif verdict.kind is VerdictKind.AMBIGUOUS and not _twins(verdict):
        yield Finding(ID, Status.UNCHECKED, verdict.reasons[0])
    elif verdict.kind is VerdictKind.AMBIGUOUS:
        yield Finding(
            ID,
            Status.PASS,
            f"the tensors fit the claim, {verdict.claim.architecture}, and its name twins as well "
            f"({_twins(verdict)}); values, the probe and the loss at step 0 have to settle it",
        )
    else:
        yield _refuse(facts, verdict)


def _refuse(facts: InitFacts, verdict: Verdict) -> Finding:
    claimed, candidates = verdict.claim.architecture, verdict.evidence.candidates
    shown = candidates[0].architecture if candidates else None
    stamps = (
        "; ".join(f"{stamp.place} {shown_value(stamp.value)}" for stamp, _ in verdict.claim.readings)
        or "no known stamp"
    )
    counts = f"; loaded as claimed: {account(facts.plan)}" if facts.plan is not None else ""
    if verdict.kind is VerdictKind.CONTRADICTION and shown is not None:
        message = f"the stamps say {claimed}, the tensors show {shown}"
    elif verdict.kind is VerdictKind.CONTRADICTION and _is_incomplete(verdict):
        message = f"the stamps say {claimed}, of which the file is an incomplete copy"
    elif verdict.kind is VerdictKind.CONTRADICTION:
        message = f"the stamps say {claimed}, but its tensors are not those of that architecture, nor of any known one"
    else:
        message = "the identity cannot be established: " + "; ".join(verdict.reasons)
    return Finding(
        ID,
        Status.REFUSE,
        f"{message}{counts}; {uniform_guess(facts)}",
        expected=f"the tensors of {claimed}" if claimed else "one known architecture, claimed and shown by the tensors",
        found=f"claimed: {stamps}; shown: {shown or 'nothing known'} ({'; '.join(verdict.evidence.reasons)})",
        remedy=repair_commands(facts, shown) if shown is not None else None,
    )


def _is_incomplete(verdict: Verdict) -> bool:
    """Whether the file has nothing that the claimed class does not, and lacks some of its tensors."""
    own = verdict.evidence.runner_up
    if own is None or own.architecture != verdict.claim.architecture:
        return False
    return not (own.unused or own.shape_conflicts)


def _twins(verdict: Verdict) -> str:
    others = [
        candidate.architecture.model_type
        for candidate in verdict.evidence.candidates
        if candidate.architecture != verdict.claim.architecture
    ]
    return ", ".join(dict.fromkeys(others))


GATE = Gate(ID, "the claimed architecture equals what the tensors show", Stage.HEADERS, _check)
