"""The record of one test run, `contracts-status.json`: outcomes of the bound tests and the code they ran on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apr.contracts.fingerprint import Fingerprint
from apr.contracts.load import checkout_root
from apr.errors import DamagedFileError, InputOutputError, shell_word

RECORD_SCHEMA = "apr.contracts-status/1"
RECORD_FILE_NAME = "contracts-status.json"
MAXIMUM_RECORD_BYTES = 64 << 20
OUTCOMES = ("passed", "skipped", "failed")
"""Best first."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """What one test did. node: full pytest id with parameters. ids: contract ids per marker. duration_s: call time."""

    __test__ = False

    node: str
    outcome: str
    duration_s: float
    ids: Mapping[str, tuple[str, ...]]
    reason: str | None = None

    @property
    def test(self) -> str:
        """The node id without parameters, as `bindings.Binding.test` has it."""
        head, bracket, _ = self.node.partition("[")
        return head if bracket else self.node


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One recorded run. started_at: UTC, ISO 8601. exit_status: pytest's (0 all passed, 1 some failed, else cut short).

    tests: bound tests only. version, python: of the code that ran.
    """

    started_at: str
    exit_status: int
    version: str
    python: str
    fingerprint: Fingerprint
    tests: tuple[TestOutcome, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": RECORD_SCHEMA,
            "started_at": self.started_at,
            "exit_status": self.exit_status,
            "version": self.version,
            "python": self.python,
            "fingerprint": asdict(self.fingerprint),
            "tests": [
                {
                    "node": each.node,
                    "outcome": each.outcome,
                    "duration_s": round(each.duration_s, 4),
                    "ids": {marker: list(ids) for marker, ids in each.ids.items()},
                    "reason": each.reason,
                }
                for each in self.tests
            ],
        }


def default_record_path() -> Path:
    """`contracts-status.json` at the top of the checkout, else in the working directory."""
    root = checkout_root()
    return (root or Path()) / RECORD_FILE_NAME


def read_record(path: Path) -> RunRecord | None:
    """The record at `path`, None when no run was recorded there; DamagedFileError when it has another form."""
    try:
        if not path.exists():
            return None
        if path.stat().st_size > MAXIMUM_RECORD_BYTES:
            raise _damaged(path, f"at most {MAXIMUM_RECORD_BYTES} bytes", f"{path.stat().st_size} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputOutputError(
            "the record of the last run cannot be read", where=str(path), found=str(error)
        ) from error
    except ValueError as error:
        raise _damaged(path, "JSON", str(error)) from error
    try:
        return _record_from_json(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"a document of schema {RECORD_SCHEMA}", repr(error)) from error


def _record_from_json(document: Any) -> RunRecord:
    if document["schema"] != RECORD_SCHEMA:
        raise ValueError(document["schema"])
    return RunRecord(
        started_at=str(document["started_at"]),
        exit_status=int(document["exit_status"]),
        version=str(document["version"]),
        python=str(document["python"]),
        fingerprint=Fingerprint(**document["fingerprint"]),
        tests=tuple(_outcome_from_json(each) for each in document["tests"]),
    )


def _outcome_from_json(document: Any) -> TestOutcome:
    if document["outcome"] not in OUTCOMES:
        raise ValueError(document["outcome"])
    ids = {str(marker): tuple(str(each) for each in values) for marker, values in document["ids"].items()}
    reason = document["reason"]
    return TestOutcome(
        str(document["node"]),
        document["outcome"],
        float(document["duration_s"]),
        ids,
        None if reason is None else str(reason),
    )


def _damaged(path: Path, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the record of the last run cannot be understood",
        where=str(path),
        expected=expected,
        found=found,
        remedy=f"delete it and record a run: pytest --record-contract-status={shell_word(path.name)}",
    )
