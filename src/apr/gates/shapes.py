"""INV-INIT-SHAPE-001: exact shapes; nothing is reshaped, transposed, padded or cut."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import MOST_NAMES_SHOWN

ID = "INV-INIT-SHAPE-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.plan is None:
        yield Finding(ID, Status.UNCHECKED, facts.plan_note or "no load plan could be made")
        return
    conflicts = facts.plan.ledger.shape_conflicts
    if not conflicts:
        yield Finding(ID, Status.PASS, f"{len(facts.plan.assignments)} tensors have exactly the shape the model wants")
        return
    shown = conflicts[:MOST_NAMES_SHOWN]
    rest = f", and {len(conflicts) - len(shown)} more" if len(conflicts) > len(shown) else ""
    yield Finding(
        ID,
        Status.REFUSE,
        f"{len(conflicts)} tensors have another shape than the config of {facts.plan.target.architecture} gives them",
        expected="; ".join(f"{each.name} {list(each.expected)}" for each in shown) + rest,
        found="; ".join(f"{each.name} {list(each.found)}" for each in shown) + rest,
        remedy=_remedy(facts, shown[0].name),
    )


def _remedy(facts: InitFacts, name: str) -> str:
    assert facts.plan is not None
    if facts.plan.target.origin == "the model":
        allow = facts.allow_words(name)
        return f"load it with the sizes of the checkpoint, or name each tensor that the run makes anew: {allow}"
    return "correct the dimensions the checkpoint records (`apr inspect` shows which), or get the matching file"


GATE = Gate(ID, "shapes are exact", Stage.HEADERS, _check)
