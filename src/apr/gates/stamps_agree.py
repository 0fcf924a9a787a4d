"""INV-STAMP-AGREE-001: everything a checkpoint says of its own identity can be true at once."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import shown_value
from apr.formats.base import Stamp
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import repair_commands

ID = "INV-STAMP-AGREE-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.verdict is None:
        yield Finding(ID, Status.UNCHECKED, "no stamps could be read")
        return
    claim = facts.verdict.claim
    candidates = facts.verdict.evidence.candidates
    is_wrong = claim.disagreements or claim.unknown
    remedy = repair_commands(facts, candidates[0].architecture) if candidates and is_wrong else None
    for first, second in claim.disagreements:
        yield Finding(
            ID,
            Status.REFUSE,
            f"two stamps contradict each other: {_say(first)}, but {_say(second)}",
            expected="stamps that name one architecture",
            found=f"{_say(first)}; {_say(second)}",
            remedy=remedy,
        )
    for stamp in claim.unknown:
        yield Finding(
            ID,
            Status.REFUSE,
            f"a stamp names no architecture that is known: {_say(stamp)}",
            expected="a model class or model type of the atlas",
            found=stamp.value,
            remedy=remedy,
        )
    if not is_wrong:
        count = len(claim.readings)
        message = f"{count} stamp{'s' if count != 1 else ''} agree" if count else "there are no stamps to disagree"
        yield Finding(ID, Status.PASS, message)


def _say(stamp: Stamp) -> str:
    return f"{stamp.place} says {shown_value(stamp.value)}"


GATE = Gate(ID, "all stamps agree with each other", Stage.HEADERS, _check)
