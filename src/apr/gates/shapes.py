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
        remedy="correct the dimensions the checkpoint records (`apr inspect` shows which), or get the matching file",
    )


GATE = Gate(ID, "shapes are exact", Stage.HEADERS, _check)
