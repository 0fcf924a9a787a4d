"""`apr explain ID`: an invariant in words, its tests and their last result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from apr.cli.contract import record_option
from apr.cli.options import json_option
from apr.cli.out import Out

if TYPE_CHECKING:
    from apr.contracts.explain import Explanation

SCHEMA = "apr.explain/1"


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from apr.contracts.load import load_contracts

    clauses = [clause for contract in load_contracts() for clause in contract.clauses]
    return [CompletionItem(each.id, help=each.title) for each in clauses if each.id.startswith(incomplete.upper())]


@click.command("explain")
@click.argument("identifier", metavar="ID", shell_complete=_complete)
@record_option
@json_option
@click.pass_obj
def command(out: Out, identifier: str, record: Path | None) -> None:
    """What an id in a message means: the rule, the reason, what a refusal says, what to do, and its proof.

    ID is a clause or a falsifier, in any case. An unknown one gives exit code 3 and the nearest ones.
    """
    from apr.contracts.explain import explain
    from apr.contracts.overview import take_stock
    from apr.contracts.record import default_record_path

    overview = take_stock(record or default_record_path())
    found = explain(identifier, overview.contracts, overview.statuses, overview.bindings or ())
    out.document(SCHEMA, found.to_json())
    _print(out, found)


def _print(out: Out, found: Explanation) -> None:
    clause = found.clause
    out.text(f"{clause.id}  {clause.title}", bold=True)
    if found.asked in clause.aliases:
        out.text(f"({found.asked} is another id of it)")
    elif found.asked != clause.id:
        out.text(f"({found.asked} is an experiment that could show it false)")
    for label, text in (
        ("holds", clause.rule),
        ("why", clause.why),
        ("refusal", clause.refusal),
        ("remedy", clause.remedy),
    ):
        _paragraph(out, label, text)
    _paragraph(out, "guards", ", ".join(clause.applies_to) + ("; blocks shipping" if clause.ship_blocking else ""))
    if clause.gate is not None:
        _paragraph(out, "gate", f"apr.gates.{clause.gate}")
    _paragraph(out, "contract", f"{found.contract.contract} {found.contract.version}")
    for falsifier in clause.falsifiers:
        _paragraph(out, "test", f"{falsifier.id}: {falsifier.prediction}")
    if clause.see_also:
        _paragraph(out, "see also", ", ".join(clause.see_also))
    _paragraph(out, "status", f"{found.status.state.value} ({found.status.reason})")
    _print_tests(out, found)


def _print_tests(out: Out, found: Explanation) -> None:
    """One line per test; of several runs with other parameters the worst."""
    from apr.contracts.record import OUTCOMES

    worst: dict[str, str] = {}
    for each in found.status.outcomes:
        worst[each.test] = max(each.outcome, worst.get(each.test, OUTCOMES[0]), key=OUTCOMES.index)
    for test in sorted({each.test for each in found.tests} | set(worst)):
        out.text(f"            {worst.get(test, 'not run'):<8} {test}")


def _paragraph(out: Out, label: str, text: str) -> None:
    import textwrap

    lines = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        out.text(f"  {label if number == 0 else '':<9} {line}")
