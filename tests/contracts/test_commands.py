"""`apr contract` and `apr explain`, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.contracts import overview
from apr.contracts.explain import explain
from apr.contracts.fingerprint import Fingerprint
from apr.contracts.load import load_contracts
from apr.contracts.record import RunRecord, TestOutcome

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.delenv("APR_DEBUG", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Fingerprint:
    """Source, contracts and tests as they were in the recorded run, in a checkout whose tests are not looked at."""
    fingerprint = Fingerprint(source="s" * 64, contracts="c" * 64, tests=None)
    monkeypatch.setattr(overview, "current_fingerprint", lambda: fingerprint)
    monkeypatch.setattr(overview, "scan_own_tests", lambda: None)
    return fingerprint


@pytest.fixture
def recorded(tmp_path: Path, unchanged: Fingerprint) -> Path:
    """A record of this code in which one test of the architecture gate passed and one of the shape gate failed."""
    tests = (
        TestOutcome("tests/t.py::test_arch", "passed", 0.1, {"planted_defect": ("INV-INIT-ARCH-MATCH-001",)}),
        TestOutcome("tests/t.py::test_shape", "failed", 0.1, {"falsifies": ("FALSIFY-INIT-SHAPE-001",)}),
    )
    path = tmp_path / "contracts-status.json"
    record = RunRecord("2026-01-01T00:00:00+00:00", 1, "0.1.0", "3.11", unchanged, tests)
    path.write_text(json.dumps(record.to_json()))
    return path


def test_list_names_every_clause(apr: Call) -> None:
    code, out, _ = apr("contract", "list")
    assert code == 0
    assert all(clause.id in out for contract in load_contracts() for clause in contract.clauses)


def test_list_as_json(apr: Call) -> None:
    document = json.loads(apr("contract", "list", "--json")[1])
    assert document["schema"] == "apr.contract/1"
    assert {each["contract"] for each in document["contracts"]} == {each.contract for each in load_contracts()}


@pytest.mark.parametrize(
    "name", ["apr-stamp-v1", "apr-stamp-v1.yaml", "INV-STAMP-TRUTH-001", "falsify-stamp-truth-001"]
)
def test_show_finds_a_contract_by_name_clause_or_falsifier(apr: Call, name: str) -> None:
    code, out, _ = apr("contract", "show", name)
    assert code == 0
    assert out.startswith("apr-stamp-v1 ")


def test_show_of_an_unknown_name_suggests(apr: Call) -> None:
    code, _, err = apr("contract", "show", "INV-STAMP-TRUHT-001")
    assert code == 3
    assert "INV-STAMP-TRUTH-001" in err


def test_status_is_computed_from_the_record(apr: Call, recorded: Path) -> None:
    document = json.loads(apr("contract", "status", "--record", recorded, "--json")[1])
    states = {each["id"]: each["state"] for each in document["clauses"]}
    assert states["INV-INIT-ARCH-MATCH-001"] == "discharged"
    assert states["INV-INIT-SHAPE-001"] == "failing"
    assert states["INV-INIT-COVERAGE-001"] == "not run"
    assert document["counts"] == {"discharged": 1, "failing": 1, "stale": 0, "not run": len(states) - 2}


def test_status_without_a_record_says_so(apr: Call, tmp_path: Path) -> None:
    code, out, err = apr("contract", "status", "--record", tmp_path / "none.json")
    assert code == 0
    assert out.startswith("no run has been recorded")
    assert "--record-contract-status" in err


def test_status_of_a_damaged_record_is_an_error(apr: Call, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{}")
    assert apr("contract", "status", "--record", path)[0] == 4


def test_check_refuses_a_planted_fault_and_names_it(apr: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken-v1.yaml").write_text("contract: broken-v1\nstatus: DISCHARGED\n")
    monkeypatch.setattr("apr.contracts.load.contracts_directory", lambda: tmp_path)
    code, out, err = apr("contract", "check")
    assert code == 5
    assert "never typed" in out
    assert "problems in the contracts" in err
    code, out, _ = apr("contract", "check", "--json")
    problems = json.loads(out)["problems"]
    assert code == 5
    assert {problem["code"] for problem in problems} == {"CONTRACT-SCHEMA"}


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-008")
def test_check_finds_nothing_in_what_is_shipped(apr: Call) -> None:
    code, out, err = apr("contract", "check")
    assert code == 0, out + err
    assert "no problem found" in out


def test_explain_says_rule_reason_refusal_remedy_and_proof(apr: Call, recorded: Path) -> None:
    code, out, _ = apr("explain", "inv-init-arch-match-001", "--record", recorded)
    assert code == 0
    words = " ".join(out.split())
    contract = next(each for each in load_contracts() if each.contract == "apr-pretrain-from-init-v1")
    clause = next(each for each in contract.clauses if each.id == "INV-INIT-ARCH-MATCH-001")
    for text in (clause.title, clause.rule, clause.why, clause.refusal, clause.remedy):
        assert " ".join(text.split()) in words
    assert "status discharged (1 passed)" in words
    assert "passed tests/t.py::test_arch" in words


def test_explain_shows_the_worst_of_a_test_with_parameters(apr: Call, tmp_path: Path, unchanged: Fingerprint) -> None:
    ids = {"falsifies": ("INV-INIT-SHAPE-001",)}
    outcomes = [("1", "passed"), ("2", "failed"), ("3", "skipped")]
    tests = tuple(TestOutcome(f"tests/t.py::test_shape[{name}]", outcome, 0.1, ids) for name, outcome in outcomes)
    path = tmp_path / "contracts-status.json"
    run_record = RunRecord("2026-01-01T00:00:00+00:00", 1, "0.1.0", "3.11", unchanged, tests)
    path.write_text(json.dumps(run_record.to_json()))
    lines = apr("explain", "INV-INIT-SHAPE-001", "--record", path)[1].splitlines()
    assert lines[-1].split() == ["failed", "tests/t.py::test_shape"]


def test_explain_of_a_falsifier_leads_to_its_clause(apr: Call) -> None:
    document: dict[str, Any] = json.loads(apr("explain", "FALSIFY-INIT-COVERAGE-001", "--json")[1])
    assert document["schema"] == "apr.explain/1"
    assert document["clause"]["id"] == "INV-INIT-COVERAGE-001"
    assert document["asked"] == "FALSIFY-INIT-COVERAGE-001"


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [("INV-INIT-ARCH-MATCH-01", "INV-INIT-ARCH-MATCH-001"), ("coverage", "INV-INIT-COVERAGE-001")],
)
def test_explain_of_an_unknown_id_is_not_found_and_suggests(apr: Call, asked: str, suggested: str) -> None:
    code, out, err = apr("explain", asked)
    assert (code, out) == (3, "")
    assert f"apr explain {suggested}" in err


def test_explain_of_an_id_left_out_says_why(apr: Call) -> None:
    code, _, err = apr("explain", "FALSIFY-APR-PRETRAIN-ARCH-004")
    assert code == 3
    assert "left out on purpose" in err


def test_explain_of_nonsense_points_to_the_list(apr: Call) -> None:
    code, _, err = apr("explain", "\x1b[31mzzzz")
    assert code == 3
    assert "apr contract list" in err
    assert "\x1b" not in err


def test_every_id_can_be_explained(tmp_path: Path) -> None:
    stock = overview.take_stock(tmp_path / "none.json")
    for contract in stock.contracts:
        for identifier in contract.ids:
            assert identifier in explain(identifier, stock.contracts, stock.statuses, ()).clause.ids
