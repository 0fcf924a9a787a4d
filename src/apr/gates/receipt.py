"""INV-INIT-RECEIPT-001: resident tensors equal the file's bytes, through the declared cast."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import MOST_NAMES_SHOWN

ID = "INV-INIT-RECEIPT-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    receipt = facts.receipt
    if receipt is None:
        yield Finding(ID, Status.UNCHECKED, "no model was loaded")
        return
    for problem in receipt.problems[:MOST_NAMES_SHOWN]:
        yield Finding(ID, Status.REFUSE, f"{problem.name} {problem.what}", problem.expected, problem.found)
    rest = len(receipt.problems) - MOST_NAMES_SHOWN
    if rest > 0:
        yield Finding(ID, Status.REFUSE, f"{rest} more resident tensors are not what the file holds")
    if not receipt.problems:
        size = f"{receipt.bytes_read / 1e6:,.1f} MB"
        yield Finding(
            ID, Status.PASS, f"{receipt.tensors_written} resident tensors equal the {size} read from the file"
        )


GATE = Gate(ID, "resident tensors equal the file's bytes", Stage.RESIDENT, _check)
