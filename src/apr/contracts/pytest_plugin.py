"""Pytest plugin that records what the tests bound to contract clauses did.

`pytest --record-contract-status=contracts-status.json` writes the record (`apr.contracts.record`) once, at the end
of the run, atomically; `apr contract status` reads it. Works under pytest-xdist: only the controller writes.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apr import __version__
from apr.contracts.bindings import MARKERS
from apr.contracts.fingerprint import Fingerprint, current_fingerprint
from apr.contracts.record import RunRecord, TestOutcome
from apr.storage.atomic import atomic_file

PROPERTY = "apr_contract_ids"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("apr", "contracts of apr")
    group.addoption(
        "--record-contract-status",
        metavar="FILE",
        default=None,
        help="record the outcomes of tests bound to contract clauses in FILE, for `apr contract status`",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "falsifies(id, ...): can show the contract clause or falsifier with that id false"
    )
    config.addinivalue_line(
        "markers", "planted_defect(id, ...): plants a defect that must turn the gate with that id red"
    )
    path = config.getoption("--record-contract-status")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.invocation_params.dir / path), "apr-contract-recorder")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the ids on each report as a property, which pytest-xdist carries from its workers to the controller."""
    for item in items:
        ids = {
            marker: sorted({str(each) for mark in item.iter_markers(marker) for each in mark.args})
            for marker in MARKERS
            if item.get_closest_marker(marker) is not None
        }
        if ids:
            item.user_properties.append((PROPERTY, json.dumps(ids)))


class Recorder:
    """Collects the reports of bound tests and writes the record when the session ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.fingerprint: Fingerprint = current_fingerprint()
        self.outcomes: dict[str, TestOutcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ids = next((json.loads(str(value)) for name, value in report.user_properties if name == PROPERTY), None)
        if ids is None:
            return
        before = self.outcomes.get(report.nodeid)
        outcome = _worse(before.outcome if before else None, _outcome(report))
        if outcome is None:
            return
        duration_s = report.duration if report.when == "call" else (before.duration_s if before else 0.0)
        reason = _skip_reason(report) or (before.reason if before else None)
        self.outcomes[report.nodeid] = TestOutcome(report.nodeid, outcome, duration_s, _tuples(ids), reason)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        record = RunRecord(
            started_at=self.started_at,
            exit_status=int(exitstatus),
            version=__version__,
            python=platform.python_version(),
            fingerprint=self.fingerprint,
            tests=tuple(self.outcomes[node] for node in sorted(self.outcomes)),
        )
        with atomic_file(self.path) as file:
            file.write(json.dumps(record.to_json(), indent=1).encode() + b"\n")


def _outcome(report: pytest.TestReport) -> str | None:
    """passed only when the test's own body ran and passed; an expected failure proves nothing and counts as skipped."""
    if report.failed:
        return "failed"
    if report.skipped or hasattr(report, "wasxfail"):
        return "skipped"
    return "passed" if report.when == "call" else None


def _worse(before: str | None, now: str | None) -> str | None:
    order = (None, "passed", "skipped", "failed")
    return max(before, now, key=order.index)


def _skip_reason(report: pytest.TestReport) -> str | None:
    if hasattr(report, "wasxfail"):
        return f"expected failure: {report.wasxfail}"
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return None


def _tuples(ids: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {marker: tuple(values) for marker, values in ids.items()}
