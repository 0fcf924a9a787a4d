"""Contracts, markers, last run and status taken together, as the commands need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apr.contracts.bindings import Binding, scan_tests
from apr.contracts.fingerprint import current_fingerprint
from apr.contracts.load import checkout_root, load_contracts
from apr.contracts.record import RunRecord, read_record
from apr.contracts.status import ClauseStatus, compute_status

if TYPE_CHECKING:
    from apr.contracts.model import Contract


@dataclass(frozen=True, slots=True)
class Overview:
    """bindings: markers in `tests/`, None where no tests are installed. record: None when no run was recorded."""

    contracts: tuple[Contract, ...]
    bindings: tuple[Binding, ...] | None
    record: RunRecord | None
    statuses: tuple[ClauseStatus, ...]


def take_stock(record_path: Path) -> Overview:
    """The state of every clause as of the run recorded at `record_path`."""
    contracts = load_contracts()
    bindings = scan_own_tests()
    record = read_record(record_path)
    return Overview(contracts, bindings, record, compute_status(contracts, record, current_fingerprint(), bindings))


def scan_own_tests() -> tuple[Binding, ...] | None:
    """The markers in the tests of this checkout, None for an installed package."""
    root = checkout_root()
    tests = root / "tests" if root is not None else None
    return scan_tests(tests) if tests is not None and tests.is_dir() else None
