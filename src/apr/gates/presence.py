"""FALSIFY-APR-PRETRAIN-INIT-003 and -004: the named source exists and is a checkpoint of a known format."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import AprError, ExitCode, NotFoundError
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status

EXISTS_ID = "FALSIFY-APR-PRETRAIN-INIT-003"
RECOGNISED_ID = "FALSIFY-APR-PRETRAIN-INIT-004"


def _check_exists(facts: InitFacts) -> Iterable[Finding]:
    if isinstance(facts.opening_error, NotFoundError):
        yield refusal(EXISTS_ID, facts.opening_error)
    else:
        yield Finding(EXISTS_ID, Status.PASS, f"{facts.path} exists")


def _check_recognised(facts: InitFacts) -> Iterable[Finding]:
    error = facts.opening_error
    if isinstance(error, NotFoundError):
        yield Finding(RECOGNISED_ID, Status.UNCHECKED, "there is nothing to read")
    elif error is not None and error.invariant != "INV-FILE-INTEGRITY-001":
        yield refusal(RECOGNISED_ID, error)
    elif facts.checkpoint is not None and not facts.checkpoint.tensors:
        yield Finding(
            RECOGNISED_ID,
            Status.REFUSE,
            "the checkpoint holds no tensors",
            expected="at least one tensor",
            found=f"none in {facts.path}",
        )
    else:
        kind = "a damaged file of a known format" if facts.checkpoint is None else facts.checkpoint.format.value
        yield Finding(RECOGNISED_ID, Status.PASS, f"recognised: {kind}")


def refusal(gate_id: str, error: AprError) -> Finding:
    """An error that stopped the reading, as the finding of the gate that speaks for it."""
    where = f" ({error.where})" if error.where else ""
    kind = " [input/output]" if error.exit_code is ExitCode.INPUT_OUTPUT else ""
    return Finding(gate_id, Status.REFUSE, f"{error.what}{where}{kind}", error.expected, error.found, error.remedy)


EXISTS = Gate(EXISTS_ID, "the named checkpoint exists", Stage.HEADERS, _check_exists)
RECOGNISED = Gate(
    RECOGNISED_ID, "it is a checkpoint of a known format, and not empty", Stage.HEADERS, _check_recognised
)
