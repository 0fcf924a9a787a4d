"""Every clause has a test that can show it false, every marker a clause, and every gate a planted defect.

`test_audit.py` proves that this check can fail.
"""

from __future__ import annotations

import importlib.util

import pytest

from apr.contracts.audit import audit_bindings
from apr.contracts.load import load_contracts
from apr.contracts.overview import scan_own_tests
from apr.gates.table import GATES


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-008")
def test_contracts_tests_and_gates_know_each_other() -> None:
    bindings = scan_own_tests()
    assert bindings
    problems = audit_bindings(load_contracts(), bindings, [gate.id for gate in GATES])
    assert not problems, "\n" + "\n".join(f"{each.code}  {each.where}: {each.message}" for each in problems)


def test_every_gate_that_a_clause_names_is_a_module() -> None:
    named = {clause.gate for contract in load_contracts() for clause in contract.clauses if clause.gate}
    assert named
    missing = {name for name in named if importlib.util.find_spec(f"apr.gates.{name}") is None}
    assert not missing
