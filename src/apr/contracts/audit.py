"""Is the set of contracts coherent, and is every clause bound to tests that can show it false?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apr.contracts.bindings import Binding, Marker
from apr.contracts.load import clause_index, contract_paths, read_contract
from apr.errors import DamagedFileError

if TYPE_CHECKING:
    from apr.contracts.model import Contract


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of the contracts. code: public kind (`CODES`); where: file or id; message: what is wrong."""

    code: str
    where: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "where": self.where, "message": self.message}


CODES = {
    "CONTRACT-SCHEMA": "a file breaks the schema, or a status is typed into it",
    "CONTRACT-DUPLICATE": "an id has two meanings",
    "CONTRACT-REFERENCE": "a reference leads nowhere",
    "CONTRACT-UNBOUND": "no test can show a falsifier's clause false",
    "CONTRACT-UNKNOWN-ID": "a test is bound to an id that no contract knows",
    "CONTRACT-UNREADABLE-MARKER": "a marker's id is not a literal text",
    "CONTRACT-GATE": "a gate and the contracts do not know each other",
    "CONTRACT-NO-PLANTED-DEFECT": "no test proves that a gate can refuse",
}


def read_all(directory: Path) -> tuple[tuple[Contract, ...], tuple[Problem, ...]]:
    """The contracts in `directory` that can be read, and one problem per fault of those that cannot."""
    contracts: list[Contract] = []
    problems: list[Problem] = []
    for path in contract_paths(directory):
        try:
            contracts.append(read_contract(path))
        except DamagedFileError as error:
            problems += [Problem("CONTRACT-SCHEMA", path.name, fault) for fault in error.facts["faults"]]
    if not contracts and not problems:
        problems.append(Problem("CONTRACT-SCHEMA", str(directory), "no contract files"))
    return tuple(contracts), tuple(problems)


def audit_contracts(contracts: tuple[Contract, ...]) -> tuple[Problem, ...]:
    """Faults that the contracts show by themselves: ids with two meanings, references that lead nowhere."""
    return (*_duplicates(contracts), *_references(contracts))


def audit_bindings(
    contracts: tuple[Contract, ...], bindings: Iterable[Binding], gate_ids: Iterable[str]
) -> tuple[Problem, ...]:
    """Faults between contracts, tests and gates.

    gate_ids: the ids of `apr.gates.table.GATES`. A falsifier is bound by a test that names it; a test that names the
    clause binds the clause's falsifier when it has only one.
    """
    known = list(bindings)
    return (
        *_marker_problems(contracts, known),
        *_unbound(contracts, known),
        *_gate_problems(contracts, known, list(gate_ids)),
    )


def audit_source(contracts: tuple[Contract, ...], named: Iterable[tuple[str, str]]) -> tuple[Problem, ...]:
    """Ids that the source can put into a message and nobody can explain. named: (id, place) of `scan_source`."""
    index = clause_index(contracts)
    return tuple(
        Problem("CONTRACT-UNKNOWN-ID", place, f"{identifier}: no contract knows this id")
        for identifier, place in named
        if identifier not in index
    )


def _duplicates(contracts: tuple[Contract, ...]) -> Iterator[Problem]:
    for name, count in Counter(contract.contract for contract in contracts).items():
        if count > 1:
            yield Problem("CONTRACT-DUPLICATE", name, f"{count} contracts have this name")
    owners = Counter(identifier for contract in contracts for identifier in contract.ids)
    for identifier, count in owners.items():
        if count > 1:
            yield Problem("CONTRACT-DUPLICATE", identifier, f"the id is defined {count} times")
    for contract in contracts:
        for left_out in contract.not_adopted:
            if left_out.id in owners:
                message = f"defined, and left out by {contract.contract}"
                yield Problem("CONTRACT-DUPLICATE", left_out.id, message)


def _references(contracts: tuple[Contract, ...]) -> Iterator[Problem]:
    names = {contract.contract for contract in contracts}
    index = clause_index(contracts)
    for contract in contracts:
        for other in contract.depends_on:
            if other not in names or other == contract.contract:
                yield Problem("CONTRACT-REFERENCE", contract.contract, f"depends on {other!r}: no such other contract")
        for clause in contract.clauses:
            for other in clause.see_also:
                if other not in index or index[other][1] is clause:
                    yield Problem("CONTRACT-REFERENCE", clause.id, f"see also {other!r}: no such other id")


def _marker_problems(contracts: tuple[Contract, ...], bindings: list[Binding]) -> Iterator[Problem]:
    index = clause_index(contracts)
    for binding in bindings:
        place = f"{binding.test} (line {binding.line})"
        if binding.id is None:
            yield Problem("CONTRACT-UNREADABLE-MARKER", place, f"{binding.marker} needs literal ids")
        elif binding.id not in index:
            yield Problem("CONTRACT-UNKNOWN-ID", place, f"{binding.marker}({binding.id!r}): no contract knows this id")


def _unbound(contracts: tuple[Contract, ...], bindings: list[Binding]) -> Iterator[Problem]:
    named = {binding.id for binding in bindings}
    for contract in contracts:
        for clause in contract.clauses:
            by_clause = bool(clause.ids & named) and len(clause.falsifiers) == 1
            for falsifier in clause.falsifiers:
                if falsifier.id not in named and not by_clause:
                    message = f"no test is marked with it (clause {clause.id}, {contract.contract})"
                    yield Problem("CONTRACT-UNBOUND", falsifier.id, message)


def _gate_problems(contracts: tuple[Contract, ...], bindings: list[Binding], gate_ids: list[str]) -> Iterator[Problem]:
    planted = {binding.id for binding in bindings if binding.marker is Marker.PLANTED_DEFECT}
    clauses = {clause.id: clause for contract in contracts for clause in contract.clauses}
    for gate_id in dict.fromkeys(gate_ids):
        clause = clauses.get(gate_id)
        if clause is None or clause.gate is None:
            yield Problem("CONTRACT-GATE", gate_id, "a gate has this id, no clause names that gate")
        accepted = clause.ids if clause is not None else {gate_id}
        if not planted.intersection(accepted):
            message = "no test marked planted_defect turns this gate red"
            yield Problem("CONTRACT-NO-PLANTED-DEFECT", gate_id, message)
    for clause in clauses.values():
        if clause.gate is not None and clause.id not in gate_ids:
            yield Problem("CONTRACT-GATE", clause.id, f"names the gate {clause.gate!r}, no gate has this id")
