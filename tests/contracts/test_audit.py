"""The check of contracts can fail: each fault is planted, and its clean twin passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apr.contracts.audit import CODES, Problem, audit_bindings, audit_contracts, read_all
from apr.contracts.bindings import Binding, Marker, scan_tests
from apr.contracts.load import load_contracts
from apr.contracts.model import Contract
from tests.contracts.small import clause, contract

TWO_FALSIFIERS = [{"id": f"FALSIFY-{n}-001", "prediction": "The experiment shows it."} for n in ("ONE", "TWO")]


def parsed(**changes: Any) -> Contract:
    return Contract.model_validate(contract(**changes))


def codes(problems: tuple[Problem, ...]) -> set[tuple[str, str]]:
    assert all(problem.code in CODES for problem in problems)
    return {(problem.code, problem.where) for problem in problems}


def bound(identifier: str | None, marker: Marker = Marker.FALSIFIES) -> Binding:
    return Binding("tests/test_x.py::test_it", marker, identifier, 3)


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-008")
def test_the_shipped_contracts_have_no_fault_of_their_own() -> None:
    assert audit_contracts(load_contracts()) == ()


def test_clean_contracts_with_bound_tests_have_no_problem() -> None:
    one = parsed(clauses=[clause("INV-SMALL-001", gate="small")])
    bindings = [bound("INV-SMALL-001", Marker.PLANTED_DEFECT)]
    assert audit_contracts((one,)) == ()
    assert audit_bindings((one,), bindings, ["INV-SMALL-001"]) == ()


def test_an_id_defined_twice_is_found_across_files() -> None:
    both = (parsed(), parsed(contract="other-v1"))
    assert ("CONTRACT-DUPLICATE", "INV-SMALL-001") in codes(audit_contracts(both))
    assert ("CONTRACT-DUPLICATE", "FALSIFY-INV-SMALL-001") in codes(audit_contracts(both))


def test_two_contracts_of_one_name_are_found() -> None:
    other = parsed(clauses=[clause("INV-OTHER-001")])
    assert codes(audit_contracts((parsed(), other))) == {("CONTRACT-DUPLICATE", "small-v1")}


def test_an_id_both_defined_and_left_out_is_found() -> None:
    both = parsed(not_adopted=[{"id": "INV-SMALL-001", "reason": "It is left out."}])
    assert codes(audit_contracts((both,))) == {("CONTRACT-DUPLICATE", "INV-SMALL-001")}


def test_references_that_lead_nowhere_are_found() -> None:
    one = parsed(depends_on=["nobody-v1"], clauses=[clause("INV-SMALL-001", see_also=["INV-NOBODY-001"])])
    found = codes(audit_contracts((one,)))
    assert found == {("CONTRACT-REFERENCE", "small-v1"), ("CONTRACT-REFERENCE", "INV-SMALL-001")}


def test_a_reference_to_itself_is_no_reference() -> None:
    one = parsed(depends_on=["small-v1"], clauses=[clause("INV-SMALL-001", see_also=["INV-SMALL-001"])])
    assert len(audit_contracts((one,))) == 2


def test_a_falsifier_without_a_test_is_found() -> None:
    assert codes(audit_bindings((parsed(),), [], [])) == {("CONTRACT-UNBOUND", "FALSIFY-INV-SMALL-001")}


def test_with_two_falsifiers_a_test_must_name_which() -> None:
    two = parsed(clauses=[clause("INV-SMALL-001", falsifiers=TWO_FALSIFIERS)])
    found = audit_bindings((two,), [bound("INV-SMALL-001"), bound("FALSIFY-ONE-001")], [])
    assert codes(found) == {("CONTRACT-UNBOUND", "FALSIFY-TWO-001")}


def test_a_marker_with_an_unknown_id_is_found_with_its_line() -> None:
    found = audit_bindings((parsed(),), [bound("INV-SMALL-001"), bound("INV-SMAL-001")], [])
    assert codes(found) == {("CONTRACT-UNKNOWN-ID", "tests/test_x.py::test_it (line 3)")}


def test_a_marker_that_cannot_be_read_is_found() -> None:
    found = audit_bindings((parsed(),), [bound("INV-SMALL-001"), bound(None)], [])
    assert codes(found) == {("CONTRACT-UNREADABLE-MARKER", "tests/test_x.py::test_it (line 3)")}


def test_a_gate_without_planted_defect_is_found_although_a_test_falsifies_it() -> None:
    one = parsed(clauses=[clause("INV-SMALL-001", gate="small")])
    found = audit_bindings((one,), [bound("INV-SMALL-001")], ["INV-SMALL-001"])
    assert codes(found) == {("CONTRACT-NO-PLANTED-DEFECT", "INV-SMALL-001")}


def test_a_gate_that_no_clause_knows_is_found() -> None:
    found = audit_bindings((parsed(),), [bound("INV-SMALL-001")], ["INV-FAKE-001"])
    assert ("CONTRACT-GATE", "INV-FAKE-001") in codes(found)
    assert ("CONTRACT-NO-PLANTED-DEFECT", "INV-FAKE-001") in codes(found)


def test_a_clause_that_names_a_gate_that_is_not_there_is_found() -> None:
    one = parsed(clauses=[clause("INV-SMALL-001", gate="small")])
    assert ("CONTRACT-GATE", "INV-SMALL-001") in codes(audit_bindings((one,), [bound("INV-SMALL-001")], []))


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "small-v1.yaml").write_text(yaml.safe_dump(contract()))
    (tmp_path / "broken-v1.yaml").write_text("contract: broken-v1\nstatus: ACTIVE\n")
    contracts, problems = read_all(tmp_path)
    assert [each.contract for each in contracts] == ["small-v1"]
    assert ("CONTRACT-SCHEMA", "broken-v1.yaml") in codes(problems)
    assert any("never typed" in problem.message for problem in problems)


MARKED = """
import pytest
pytestmark = [pytest.mark.falsifies("INV-MODULE-001")]
ID = "INV-CONSTANT-001"
CHANGED = "INV-CHANGED-001"
CHANGED = "INV-CHANGED-002"

@pytest.mark.falsifies("INV-ONE-001", "INV-TWO-001")
def test_one(): ...

@pytest.mark.planted_defect("INV-CLASS-001")
class TestThing:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.falsifies("INV-PARAM-001"))])
    def test_two(self, x): ...

@pytest.mark.falsifies(ID)
def test_three(): ...

@pytest.mark.falsifies(CHANGED)
def test_four(): ...

@pytest.mark.falsifies("INV-HELPER-001")
def helper(): ...
"""


def test_markers_are_read_wherever_pytest_takes_them(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_marked.py").write_text(MARKED)
    (folder / "helper.py").write_text(MARKED)
    found = {
        (each.test.removeprefix("tests/test_marked.py::"), each.marker.value, each.id) for each in scan_tests(folder)
    }
    assert found == {
        ("test_one", "falsifies", "INV-MODULE-001"),
        ("test_one", "falsifies", "INV-ONE-001"),
        ("test_one", "falsifies", "INV-TWO-001"),
        ("TestThing::test_two", "falsifies", "INV-MODULE-001"),
        ("TestThing::test_two", "planted_defect", "INV-CLASS-001"),
        ("TestThing::test_two", "falsifies", "INV-PARAM-001"),
        ("test_three", "falsifies", "INV-MODULE-001"),
        ("test_three", "falsifies", "INV-CONSTANT-001"),
        ("test_four", "falsifies", "INV-MODULE-001"),
        ("test_four", "falsifies", None),
    }
