"""Which test is bound to which clause: the markers in `tests/`, read from the source without importing it.

A marker is `@pytest.mark.falsifies("ID")` or `@pytest.mark.planted_defect("ID")` on a test function, on a class of
tests, in a module's `pytestmark`, or in the `marks=` of a `pytest.param`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apr.errors import DamagedFileError


class Marker(StrEnum):
    """falsifies: the test can show a clause false. planted_defect: it plants a defect that must turn a gate red."""

    FALSIFIES = "falsifies"
    PLANTED_DEFECT = "planted_defect"


PUBLIC_ID = re.compile(r"(INV|GATE|FALSIFY)(-[A-Z0-9]+)+")
MARKERS = tuple(marker.value for marker in Marker)


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """One test function bound to one id. test: pytest node id without parameters; line: of the marker, from 1.

    id is None when the marker's argument is neither a literal text nor a constant of its module, so that nobody can
    tell what it binds without running it.
    """

    test: str
    marker: Marker
    id: str | None
    line: int


def scan_tests(directory: Path, root: Path | None = None) -> tuple[Binding, ...]:
    """Every marker in the test files under `directory`; node ids are relative to `root` (default: its parent)."""
    base = root or directory.parent
    found: set[Binding] = set()
    for path in sorted(directory.rglob("test_*.py")):
        found.update(_scan_file(path, path.relative_to(base).as_posix()))
    return tuple(sorted(found, key=lambda each: (each.test, each.line, each.marker, each.id or "")))


def scan_source(directory: Path) -> tuple[tuple[str, str], ...]:
    """Every text literal in the source under `directory` that is an id, with its file and line."""
    found: set[tuple[str, str]] = set()
    for path in sorted(directory.rglob("*.py")):
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and PUBLIC_ID.fullmatch(node.value):
                found.add((node.value, f"{path.relative_to(directory).as_posix()} (line {node.lineno})"))
    return tuple(sorted(found))


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DamagedFileError("a Python file cannot be parsed", where=str(path), found=str(error)) from error


def _scan_file(path: Path, node: str) -> Iterator[Binding]:
    module = _parse(path)
    yield from _scan_body(module.body, node, _pytestmark(module.body), _text_constants(module.body))


def _scan_body(
    body: list[ast.stmt], node: str, inherited: list[ast.expr], constants: Mapping[str, str]
) -> Iterator[Binding]:
    for statement in body:
        if isinstance(statement, ast.ClassDef) and statement.name.startswith("Test"):
            marks = [*inherited, *statement.decorator_list, *_pytestmark(statement.body)]
            yield from _scan_body(statement.body, f"{node}::{statement.name}", marks, constants)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and statement.name.startswith("test"):
            for expression in (*inherited, *statement.decorator_list):
                yield from _markers(expression, f"{node}::{statement.name}", constants)


def _pytestmark(body: list[ast.stmt]) -> list[ast.expr]:
    return [value for name, value in _assignments(body) if name == "pytestmark"]


def _text_constants(body: list[ast.stmt]) -> dict[str, str]:
    """Module names that are assigned once, to a literal text."""
    assigned = list(_assignments(body))
    names = [name for name, _ in assigned]
    return {
        name: value.value
        for name, value in assigned
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and names.count(name) == 1
    }


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _markers(expression: ast.expr, test: str, constants: Mapping[str, str]) -> Iterator[Binding]:
    for call in ast.walk(expression):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in MARKERS):
            continue
        marker = Marker(call.func.attr)
        if not call.args:
            yield Binding(test, marker, None, call.lineno)
        for argument in call.args:
            yield Binding(test, marker, _identifier(argument, constants), call.lineno)


def _identifier(argument: ast.expr, constants: Mapping[str, str]) -> str | None:
    if isinstance(argument, ast.Name):
        return constants.get(argument.id)
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None
