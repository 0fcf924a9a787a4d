"""Solving config fields back from shapes: equations `expression = number`, one unknown at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from apr.errors import AprError
from apr.identity.shapes import evaluate, fields_of


class Solution(NamedTuple):
    """Field values found so far, and equations that cannot hold together.

    undecided: expressions whose value is known although their fields are not (`head_dim*num_attention_heads`).
    conflicts: readable lines.
    """

    values: dict[str, int]
    undecided: dict[str, int]
    conflicts: list[str]


def solve(equations: Mapping[str, Mapping[int, str]], known: Mapping[str, int] | None = None) -> Solution:
    """Fields from `expression -> {number: an example tensor}`; several numbers for one expression are a conflict.

    known: values taken for granted from the start, so that products become decidable.
    """
    conflicts: list[str] = []
    single: dict[str, int] = {}
    for expression, numbers in equations.items():
        if len(numbers) > 1:
            said = ", ".join(f"{number} ({name})" for number, name in sorted(numbers.items())[:3])
            conflicts.append(f"{expression} would be {said}")
        single[expression] = next(iter(numbers))
    pending = dict(sorted(single.items(), key=lambda item: (len(fields_of(item[0])), item[0])))
    solution = Solution(dict(known or {}), pending, conflicts)
    progress = True
    while pending and progress:
        progress = False
        for expression, number in list(pending.items()):
            unknown = [name for name in fields_of(expression) if name not in solution.values]
            if len(unknown) > 1:
                continue
            found = (
                _check(expression, number, solution)
                if not unknown
                else _solve_one(expression, number, unknown[0], solution)
            )
            if found is None:
                continue
            del pending[expression]
            progress = True
            if not found:
                example = equations[expression][number]
                solution.conflicts.append(f"{example}: {number} does not fit {expression}{_with(expression, solution)}")
    return solution


def _check(expression: str, number: int, solution: Solution) -> bool:
    try:
        return evaluate(expression, solution.values) == number
    except AprError:
        return False


def _solve_one(expression: str, number: int, unknown: str, solution: Solution) -> bool | None:
    """Set `unknown` so that the equation holds; False when no whole number does, None when it is not linear in it."""

    def at(value: int) -> int | None:
        try:
            return evaluate(expression, {**solution.values, unknown: value})
        except AprError:
            return None

    offset, first, second = at(0), at(1), at(2)
    if offset is None or first is None or second is None or second - first != first - offset or first == offset:
        return None
    value, rest = divmod(number - offset, first - offset)
    if at(1000) != offset + 1000 * (first - offset):
        return None
    if rest or value < 0:
        return False
    solution.values[unknown] = value
    return True


def _with(expression: str, solution: Solution) -> str:
    known = [f"{name} {solution.values[name]}" for name in sorted(fields_of(expression)) if name in solution.values]
    return f" with {', '.join(known)}" if known and known != [expression] else ""
