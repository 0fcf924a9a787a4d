"""The status of every clause, computed from the last recorded run and never from the contract files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apr.contracts.bindings import Binding
from apr.contracts.fingerprint import Fingerprint
from apr.contracts.record import RunRecord, TestOutcome

if TYPE_CHECKING:
    from apr.contracts.model import Clause, Contract


MOST_TESTS_NAMED = 3


class ClauseState(StrEnum):
    """DISCHARGED: every bound test ran on this very code; each falsifier has one that passed, none failed."""

    DISCHARGED = "discharged"
    FAILING = "failing"
    NOT_RUN = "not run"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class ClauseStatus:
    """State of one clause with its reason in words. outcomes: of its tests in the last run."""

    contract: str
    id: str
    title: str
    state: ClauseState
    reason: str
    ship_blocking: bool
    outcomes: tuple[TestOutcome, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "contract": self.contract,
            "id": self.id,
            "title": self.title,
            "state": self.state.value,
            "reason": self.reason,
            "ship_blocking": self.ship_blocking,
            "tests": [
                {"node": each.node, "outcome": each.outcome, "duration_s": each.duration_s, "reason": each.reason}
                for each in self.outcomes
            ],
        }


def compute_status(
    contracts: tuple[Contract, ...],
    record: RunRecord | None,
    now: Fingerprint,
    bindings: Iterable[Binding] | None,
) -> tuple[ClauseStatus, ...]:
    """One status per clause, in file order.

    now: fingerprint of the code as it is. bindings: the markers in `tests/`, None where no tests are installed; with
    them a bound test that the run left out keeps its clause from being discharged.
    """
    known = None if bindings is None else list(bindings)
    return tuple(
        _clause_status(contract, clause, record, now, known) for contract in contracts for clause in contract.clauses
    )


def _clause_status(
    contract: Contract, clause: Clause, record: RunRecord | None, now: Fingerprint, bindings: list[Binding] | None
) -> ClauseStatus:
    outcomes = _outcomes_of(clause, record)
    state, reason = _judge(clause, outcomes, bindings)
    changed = now.changed_since(record.fingerprint) if record is not None else ()
    if changed and outcomes:
        state, reason = ClauseState.STALE, f"{' and '.join(changed)} changed since that run; it was: {reason}"
    if record is None:
        reason = "no run has been recorded"
    return ClauseStatus(contract.contract, clause.id, clause.title, state, reason, clause.ship_blocking, outcomes)


def _outcomes_of(clause: Clause, record: RunRecord | None) -> tuple[TestOutcome, ...]:
    if record is None:
        return ()
    return tuple(each for each in record.tests if any(clause.ids.intersection(ids) for ids in each.ids.values()))


def _judge(
    clause: Clause, outcomes: tuple[TestOutcome, ...], bindings: list[Binding] | None
) -> tuple[ClauseState, str]:
    failed = [each.test for each in outcomes if each.outcome == "failed"]
    if failed:
        return ClauseState.FAILING, f"{len(failed)} failed: {_shortened(failed)}"
    left_out = _left_out(clause, outcomes, bindings)
    if left_out:
        return ClauseState.NOT_RUN, f"{len(left_out)} not in that run: {_shortened(left_out)}"
    unproven = [each.id for each in clause.falsifiers if not _has_passed(clause, each.id, outcomes)]
    if unproven:
        return ClauseState.NOT_RUN, _why_unproven(unproven, outcomes)
    skipped = sum(each.outcome == "skipped" for each in outcomes)
    passed = len(outcomes) - skipped
    return ClauseState.DISCHARGED, f"{passed} passed" + (f", {skipped} skipped" if skipped else "")


def _shortened(tests: list[str]) -> str:
    """Names of tests, each once, the first few of them."""
    names = list(dict.fromkeys(tests))
    shown = ", ".join(names[:MOST_TESTS_NAMED])
    return shown if len(names) <= MOST_TESTS_NAMED else f"{shown} and {len(names) - MOST_TESTS_NAMED} more"


def _left_out(clause: Clause, outcomes: tuple[TestOutcome, ...], bindings: list[Binding] | None) -> list[str]:
    ran = {each.test for each in outcomes}
    return sorted({each.test for each in bindings or () if each.id in clause.ids and each.test not in ran})


def _has_passed(clause: Clause, falsifier_id: str, outcomes: tuple[TestOutcome, ...]) -> bool:
    accepted = clause.ids if len(clause.falsifiers) == 1 else {falsifier_id}
    return any(
        each.outcome == "passed" and any(accepted.intersection(ids) for ids in each.ids.values()) for each in outcomes
    )


def _why_unproven(unproven: list[str], outcomes: tuple[TestOutcome, ...]) -> str:
    reasons = sorted({each.reason or "skipped" for each in outcomes if each.outcome == "skipped"})
    named = ", ".join(unproven)
    return f"{named}: only skipped tests ({'; '.join(reasons)})" if reasons else f"{named}: no test ran"
