"""Digests of the source, the contracts and the tests: they tell whether a recorded run still speaks of this code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apr.contracts.load import PACKAGE_DIRECTORY, checkout_root, contracts_directory

IGNORED_SUFFIXES = frozenset({".pyc", ".pyo", ".tmp"})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 hex over relative names and contents; tests is None where no tests are installed."""

    source: str
    contracts: str
    tests: str | None

    def changed_since(self, other: Fingerprint) -> tuple[str, ...]:
        """The parts in which this state differs from `other`; tests count only where both sides have them."""
        parts = [("source", self.source, other.source), ("contracts", self.contracts, other.contracts)]
        if self.tests is not None and other.tests is not None:
            parts.append(("tests", self.tests, other.tests))
        return tuple(name for name, mine, theirs in parts if mine != theirs)


def current_fingerprint() -> Fingerprint:
    root = checkout_root()
    tests = root / "tests" if root is not None else None
    return Fingerprint(
        source=digest_directory(PACKAGE_DIRECTORY, skip=PACKAGE_DIRECTORY / "contracts" / "data"),
        contracts=digest_directory(contracts_directory(), pattern="*.yaml"),
        tests=digest_directory(tests, pattern="*.py") if tests is not None and tests.is_dir() else None,
    )


def digest_directory(directory: Path, pattern: str = "*", skip: Path | None = None) -> str:
    """SHA-256 hex over every file below `directory`: name, length and bytes, in name order; caches left out."""
    digest = hashlib.sha256()
    for path in sorted(_files(directory, pattern)):
        if skip is not None and path.is_relative_to(skip):
            continue
        name = path.relative_to(directory).as_posix().encode()
        content = path.read_bytes()
        digest.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _files(directory: Path, pattern: str) -> Iterable[Path]:
    for path in directory.rglob(pattern):
        parts = path.relative_to(directory).parts
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not is_hidden and path.suffix not in IGNORED_SUFFIXES:
            yield path
