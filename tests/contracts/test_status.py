"""The status of a clause comes from a recorded run of this very code, and from nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from apr.contracts.bindings import Binding, Marker
from apr.contracts.fingerprint import Fingerprint, current_fingerprint, digest_directory
from apr.contracts.model import Contract
from apr.contracts.record import RunRecord, TestOutcome, read_record
from apr.contracts.status import ClauseState, ClauseStatus, compute_status
from apr.errors import DamagedFileError
from tests.contracts.small import clause, contract

NOW = Fingerprint(source="s" * 64, contracts="c" * 64, tests="t" * 64)
TWO = [{"id": f"FALSIFY-{n}-001", "prediction": "The experiment shows it."} for n in ("ONE", "TWO")]
SMALL = Contract.model_validate(contract())


def outcome(
    result: str = "passed", identifier: str = "INV-SMALL-001", test: str = "test_a", **more: str
) -> TestOutcome:
    return TestOutcome(f"tests/test_x.py::{test}", result, 0.1, {"falsifies": (identifier,)}, **more)


def record(*tests: TestOutcome, fingerprint: Fingerprint = NOW) -> RunRecord:
    return RunRecord("2026-01-01T00:00:00+00:00", 0, "0.1.0", "3.11.0", fingerprint, tests)


def status(run: RunRecord | None, *, of: Contract = SMALL, bindings: tuple[Binding, ...] | None = None) -> ClauseStatus:
    (only,) = compute_status((of,), run, NOW, bindings)
    return only


def test_a_passed_test_discharges() -> None:
    found = status(record(outcome()))
    assert (found.state, found.reason) == (ClauseState.DISCHARGED, "1 passed")


def test_without_a_record_nothing_is_discharged() -> None:
    found = status(None)
    assert (found.state, found.reason) == (ClauseState.NOT_RUN, "no run has been recorded")


def test_one_failed_test_outweighs_those_that_passed() -> None:
    found = status(record(outcome(), outcome("failed", test="test_b")))
    assert (found.state, found.reason) == (ClauseState.FAILING, "1 failed: tests/test_x.py::test_b")


def test_many_failures_are_counted_and_a_few_named() -> None:
    found = status(record(*(outcome("failed", test=f"test_{name}[{i}]") for name in "abcde" for i in (1, 2))))
    names = ", ".join(f"tests/test_x.py::test_{name}" for name in "abc")
    assert found.reason == f"10 failed: {names} and 2 more"


def test_skipped_tests_prove_nothing_and_the_reason_is_shown() -> None:
    found = status(record(outcome("skipped", reason="needs a CUDA device")))
    assert found.state is ClauseState.NOT_RUN
    assert "needs a CUDA device" in found.reason


def test_every_falsifier_needs_a_passed_test_of_its_own() -> None:
    two = Contract.model_validate(contract(clauses=[clause("INV-SMALL-001", falsifiers=TWO)]))
    half = status(record(outcome(identifier="FALSIFY-ONE-001")), of=two)
    assert (half.state, half.reason) == (ClauseState.NOT_RUN, "FALSIFY-TWO-001: no test ran")
    whole = record(outcome(identifier="FALSIFY-ONE-001"), outcome(identifier="FALSIFY-TWO-001", test="test_b"))
    assert status(whole, of=two).state is ClauseState.DISCHARGED


def test_a_bound_test_that_the_run_left_out_keeps_the_clause_open() -> None:
    bindings = tuple(
        Binding(f"tests/test_x.py::{name}", Marker.FALSIFIES, "INV-SMALL-001", 1) for name in ("test_a", "test_b")
    )
    found = status(record(outcome()), bindings=bindings)
    assert (found.state, found.reason) == (ClauseState.NOT_RUN, "1 not in that run: tests/test_x.py::test_b")
    parametrised = record(outcome(test="test_a[1]"), outcome(test="test_b[x[0]]"))
    assert status(parametrised, bindings=bindings).state is ClauseState.DISCHARGED


@pytest.mark.parametrize("part", ["source", "contracts", "tests"])
def test_a_change_since_the_run_makes_it_stale(part: str) -> None:
    found = status(record(outcome(), fingerprint=replace(NOW, **{part: "0" * 64})))
    assert (found.state, found.reason) == (ClauseState.STALE, f"{part} changed since that run; it was: 1 passed")


def test_the_fingerprint_follows_content_and_names_but_not_caches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = digest_directory(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("x")
    assert digest_directory(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = digest_directory(tmp_path)
    (tmp_path / "b.py").write_text("2")
    assert len({first, renamed, digest_directory(tmp_path)}) == 3


RECORDED = """
import pytest

@pytest.mark.falsifies("INV-PASS-001")
@pytest.mark.parametrize("x", [1, 2])
def test_passes(x): ...

@pytest.mark.planted_defect("INV-FAIL-001")
def test_fails():
    raise AssertionError

@pytest.mark.falsifies("INV-SKIP-001")
def test_skips():
    pytest.skip("not here")

@pytest.mark.falsifies("INV-XFAIL-001")
@pytest.mark.xfail(reason="known", strict=False)
def test_expected():
    raise AssertionError

@pytest.fixture
def broken():
    raise RuntimeError

@pytest.mark.falsifies("INV-SETUP-001")
def test_setup(broken): ...

@pytest.fixture
def breaks_later():
    yield
    raise RuntimeError

@pytest.mark.falsifies("INV-TEARDOWN-001")
def test_teardown(breaks_later): ...

def test_unbound(): ...
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recorded_run_tells_what_each_bound_test_did(tmp_path: Path, workers: int) -> None:
    (tmp_path / "test_recorded.py").write_text(RECORDED)
    path = tmp_path / "contracts-status.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "apr.contracts.pytest_plugin", "-p", "no:cacheprovider"]
    command += ["-n", str(workers), "--record-contract-status", path.name, "test_recorded.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    run = read_record(path)
    assert run is not None, done.stdout + done.stderr
    assert {each.node.removeprefix("test_recorded.py::"): each.outcome for each in run.tests} == {
        "test_passes[1]": "passed",
        "test_passes[2]": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_expected": "skipped",
        "test_setup": "failed",
        "test_teardown": "failed",
    }
    by_node = {each.test.removeprefix("test_recorded.py::"): each for each in run.tests}
    assert by_node["test_fails"].ids == {"planted_defect": ("INV-FAIL-001",)}
    assert by_node["test_skips"].reason == "not here"
    assert run.exit_status == 1
    assert run.fingerprint.contracts == current_fingerprint().contracts
    assert len(run.fingerprint.source) == 64
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix == ".json" or "tmp" in each.name) == [
        path.name
    ]


def test_a_run_without_the_option_records_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_recorded.py").write_text("def test_it(): ...\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "apr.contracts.pytest_plugin", "-p", "no:cacheprovider"]
    subprocess.run([*command, "test_recorded.py"], cwd=tmp_path, capture_output=True, check=True, timeout=120)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "apr.contracts-status/9"}'])
def test_a_record_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "contracts-status.json"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match="cannot be understood"):
        read_record(path)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "contracts-status.json"
    assert read_record(path) is None
    run = record(outcome(), outcome("skipped", test="test_b", reason="why"))
    path.write_text(json.dumps(run.to_json()))
    assert read_record(path) == run
