"""INV-STAMP-AGREE-001: everything a checkpoint says of its own identity can be true at once."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import in_lines, shell_word, shown_value
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
            f"a stamp names no architecture that is known: {_say(stamp)}, which {_unknown_to(facts)}",
            expected="a model class or model type of the atlas"
            + (" or of the installed transformers" if facts.has_asked_zoo else ""),
            found=stamp.value,
            remedy=remedy or _way_out(facts, stamp),
        )
    if not is_wrong:
        count = len(claim.readings)
        message = f"{count} stamp{'s' if count != 1 else ''} agree" if count else "there are no stamps to disagree"
        yield Finding(ID, Status.PASS, message)


def _unknown_to(facts: InitFacts) -> str:
    return "neither the atlas nor the installed transformers has" if facts.has_asked_zoo else "the atlas does not have"


def _way_out(facts: InitFacts, stamp: Stamp) -> str | None:
    """How to have a class accounted for that transformers may have and the atlas lacks; None for other names."""
    is_of_a_class = facts.verdict is not None and bool(facts.verdict.claim.readings) and stamp.value.isidentifier()
    if not is_of_a_class or facts.checkpoint is None or facts.checkpoint.config is None:
        return None
    if facts.has_asked_zoo:
        return (
            f"pip install -U transformers, where {stamp.value} is newer than the one installed; else correct the name"
        )
    return in_lines(
        f"apr preflight {shell_word(facts.local_path)} --load",
        f"which builds {stamp.value} itself where the installed transformers has it, and accounts for every tensor",
    )


def _say(stamp: Stamp) -> str:
    return f"{stamp.place} says {shown_value(stamp.value)}"


GATE = Gate(ID, "all stamps agree with each other", Stage.HEADERS, _check)
