"""`apr contract`: the contracts behind the gates, whether they are sound, and what the last recorded run showed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import in_lines

if TYPE_CHECKING:
    from apr.contracts.audit import Problem
    from apr.contracts.model import Contract
    from apr.contracts.overview import Overview
    from apr.contracts.status import ClauseStatus

SCHEMA = "apr.contract/1"
COLORS = {"discharged": "green", "failing": "red", "stale": "yellow", "not run": "yellow"}

record_option = click.option(
    "--record",
    type=PATH,
    default=None,
    help="Record of a test run (default: contracts-status.json of the checkout, else of the working directory).",
)


@click.group("contract")
def command() -> None:
    """What apr promises, clause by clause.

    The status of a clause is computed from the last test run that was recorded with
    `pytest --record-contract-status=contracts-status.json`; no contract file can state it.
    """


@command.command("list")
@json_option
@click.pass_obj
def list_contracts(out: Out) -> None:
    """Every contract with its clauses."""
    from apr.contracts.load import load_contracts

    contracts = load_contracts()
    out.document(SCHEMA, {"command": "list", "contracts": [_summary(contract) for contract in contracts]})
    for contract in contracts:
        out.text(f"{contract.contract} {contract.version}", bold=True)
        out.text(f"  {contract.summary}")
        out.pairs((clause.id, clause.title) for clause in contract.clauses)
        out.text()


@command.command("show")
@click.argument("identifier", metavar="ID")
@json_option
@click.pass_obj
def show(out: Out, identifier: str) -> None:
    """One contract by its name, or the contract in which the clause ID stands."""
    from apr.contracts.explain import unknown_id
    from apr.contracts.load import clause_index, load_contracts

    contracts = load_contracts()
    by_name = {contract.contract: contract for contract in contracts}
    found = by_name.get(identifier.lower().removesuffix(".yaml"))
    index = clause_index(contracts)
    if found is None and identifier.upper() in index:
        found = index[identifier.upper()][0]
    if found is None:
        raise unknown_id(identifier, contracts)
    out.document(SCHEMA, {"command": "show", "contract": found.model_dump(mode="json")})
    _print_contract(out, found)


@command.command("check")
@json_option
@click.pass_obj
def check(out: Out) -> None:
    """Are the contracts sound, and is every clause bound to a test? Problems give exit code 5."""
    from apr.contracts.audit import audit_bindings, audit_contracts, audit_source, read_all
    from apr.contracts.bindings import scan_source
    from apr.contracts.load import PACKAGE_DIRECTORY, contracts_directory
    from apr.contracts.overview import scan_own_tests
    from apr.errors import RefusedError
    from apr.gates.table import GATES

    contracts, problems = read_all(contracts_directory())
    problems += audit_contracts(contracts)
    bindings = scan_own_tests()
    if contracts:
        problems += audit_source(contracts, scan_source(PACKAGE_DIRECTORY))
    if bindings is not None and contracts:
        problems += audit_bindings(contracts, bindings, [gate.id for gate in GATES])
    clauses = sum(len(contract.clauses) for contract in contracts)
    body = {
        "command": "check",
        "contracts": len(contracts),
        "clauses": clauses,
        "are_bindings_checked": bindings is not None,
        "problems": [problem.to_json() for problem in problems],
    }
    out.document(SCHEMA, body)
    _print_problems(out, problems)
    if bindings is None:
        out.note("no tests are installed beside this package: which test binds which clause was not checked")
    if problems:
        raise RefusedError(
            f"{len(problems)} problems in the contracts",
            found=None if not out.is_json else in_lines(*(f"{each.where}: {each.message}" for each in problems)),
            remedy="correct the contract, the marker or the test that each line names",
        )
    out.text(f"{len(contracts)} contracts, {clauses} clauses: no problem found")


@command.command("status")
@record_option
@json_option
@click.pass_obj
def status(out: Out, record: Path | None) -> None:
    """What the last recorded run showed of each clause: discharged, failing, not run or stale."""
    from apr.contracts.overview import take_stock
    from apr.contracts.record import default_record_path

    path = record or default_record_path()
    overview = take_stock(path)
    counts = Counter(each.state.value for each in overview.statuses)
    run = overview.record
    body = {
        "command": "status",
        "record": str(path) if run is not None else None,
        "recorded_at": run.started_at if run is not None else None,
        "exit_status": run.exit_status if run is not None else None,
        "counts": {state: counts.get(state, 0) for state in COLORS},
        "clauses": [each.to_json() for each in overview.statuses],
    }
    out.document(SCHEMA, body)
    _print_status(out, overview, path)
    if run is None:
        out.hint("record a run: pytest --record-contract-status=contracts-status.json")


def _summary(contract: Contract) -> dict[str, object]:
    return {
        "contract": contract.contract,
        "version": contract.version,
        "kind": contract.kind.value,
        "summary": contract.summary,
        "clauses": [{"id": clause.id, "title": clause.title, "gate": clause.gate} for clause in contract.clauses],
    }


def _print_contract(out: Out, contract: Contract) -> None:
    out.text(f"{contract.contract} {contract.version} ({contract.kind.value})", bold=True)
    out.text(contract.summary)
    out.text()
    out.text(contract.motivation)
    for clause in contract.clauses:
        out.text()
        out.text(f"{clause.id}  {clause.title}", bold=True)
        out.text(f"  {clause.rule}")
        gate = f"gate {clause.gate}" if clause.gate else "no gate"
        paths = ", ".join(clause.applies_to)
        out.text(f"  {gate}; {'blocks shipping' if clause.ship_blocking else 'does not block shipping'}; {paths}")
    if contract.not_adopted:
        out.text()
        out.pairs(((each.id, each.reason) for each in contract.not_adopted), title="left out on purpose")


def _print_problems(out: Out, problems: tuple[Problem, ...]) -> None:
    for each in problems:
        out.text(f"{each.code}  {each.where}", bold=True)
        out.text(f"    {each.message}")


def _print_status(out: Out, overview: Overview, path: Path) -> None:
    run = overview.record
    title = "no run has been recorded" if run is None else f"run of {run.started_at} (apr {run.version}), {path}"
    out.text(title)
    contract: str | None = None
    for each in overview.statuses:
        if each.contract != contract:
            contract = each.contract
            out.text()
            out.text(contract, bold=True)
        _print_clause(out, each)
    counts = Counter(each.state.value for each in overview.statuses)
    out.text()
    out.text(", ".join(f"{counts.get(state, 0)} {state}" for state in COLORS))


def _print_clause(out: Out, each: ClauseStatus) -> None:
    out.text(f"  {each.state.value:<10}  {each.id}  {each.title}", color=COLORS[each.state.value])
    if each.state.value not in ("discharged", "not run") or each.outcomes:
        out.text(f"  {'':<10}  {each.reason}")
