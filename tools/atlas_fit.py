"""Fitting: from numbers observed on several configs to the simplest expression, place and condition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas_models import PLACE_FIELD

Vector = tuple[int, ...]

MOST_TERMS_SUMMED = 400
PREFERRED = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")


class ExpressionFitter:
    """Finds expressions over fields: `fields` maps a name to its values, one for each observation."""

    def __init__(self, fields: Mapping[str, Vector]) -> None:
        self.fields = {name: values for name, values in fields.items() if values and all(value > 0 for value in values)}
        self.count = len(next(iter(fields.values()), ()))
        self._known: dict[Vector, str | None] = {}
        self._terms = self._make_terms()
        self._by_direction: dict[Vector, tuple[Vector, str]] = {}
        for text, values in self._terms:
            self._by_direction.setdefault(_direction(values), (values, text))

    def _make_terms(self) -> list[tuple[str, Vector]]:
        names = sorted(self.fields, key=lambda name: (name not in PREFERRED, name))
        terms = [("1", (1,) * self.count)]
        terms += [(name, self.fields[name]) for name in names if len(set(self.fields[name])) > 1]
        varying = terms[1:]
        quotients = []
        for (left, a), (right, b) in itertools.permutations(varying, 2):
            if "head" not in right and "group" not in right:
                continue
            if all(x % y == 0 for x, y in zip(a, b, strict=True)) and any(y > 1 for y in b):
                quotients.append((f"({left}//{right})", tuple(x // y for x, y in zip(a, b, strict=True))))
        for (left, a), divisor in itertools.product(varying, (16,)):
            quotients.append((f"(({left}+{divisor - 1})//{divisor})", tuple(-(-x // divisor) for x in a)))
        quotients = [(text, values) for text, values in quotients if len(set(values)) > 1]
        products = [
            (f"{left}*{right}", tuple(x * y for x, y in zip(a, b, strict=True)))
            for (left, a), (right, b) in itertools.combinations_with_replacement(varying, 2)
        ]
        mixed = [
            (f"{left}*{right}", tuple(x * y for x, y in zip(a, b, strict=True)))
            for (left, a), (right, b) in itertools.product(varying, quotients)
            if left not in right and ("head" in left or "group" in left)
        ]
        return terms + products + quotients + mixed

    def fit(self, values: Vector) -> str | None:
        """The simplest expression with these values, None when there is none of up to three terms."""
        if values not in self._known:
            self._known[values] = self._search(values)
        return self._known[values]

    def _search(self, values: Vector) -> str | None:
        if len(set(values)) == 1:
            return str(values[0])
        single = self._single(values)
        if single is not None:
            return single
        simple = self._terms[:MOST_TERMS_SUMMED]
        for text, vector in simple:
            for factor in (1, 2, 3, -1, -2) if text != "1" else (1, 2, -1, -2, 3, 4, -3):
                rest = tuple(x - factor * y for x, y in zip(values, vector, strict=True))
                other = self._single(rest) if all(each > 0 for each in rest) else None
                if other is not None and other != text:
                    return _sum(other, factor, text)
        fields = self._terms[: 1 + len(self.fields)]
        for (first, a), (second, b) in itertools.product(fields, self._terms[:MOST_TERMS_SUMMED]):
            for one, two in itertools.product((1, 2), (1, 2)):
                rest = tuple(x - one * y - two * z for x, y, z in zip(values, a, b, strict=True))
                other = self._single(rest) if all(each > 0 for each in rest) else None
                if other is not None:
                    return _sum(_sum(other, one, first), two, second)
        return None

    def _single(self, values: Vector) -> str | None:
        if len(set(values)) == 1:
            return str(values[0])
        found = self._by_direction.get(_direction(values))
        if found is None:
            return None
        vector, text = found
        if values[0] % vector[0] == 0:
            factor = values[0] // vector[0]
            return text if factor == 1 else f"{factor}*{text}"
        if vector[0] % values[0] == 0:
            return f"({text}//{vector[0] // values[0]})"
        return None


def _sum(head: str, factor: int, text: str) -> str:
    sign = "+" if factor > 0 else "-"
    size = abs(factor)
    if text == "1":
        return f"{head}{sign}{size}"
    return f"{head}{sign}{text}" if size == 1 else f"{head}{sign}{size}*{text}"


def _direction(values: Vector) -> Vector:
    """The vector divided by its greatest common divisor: equal for multiples of each other."""
    from math import gcd

    divisor = gcd(*values)
    return tuple(value // divisor for value in values) if divisor else values


MOST_PLACES_COMBINED = {2: 150, 3: 40}


Place = tuple[tuple[str, str, Any], ...]


def fit_place(
    present: Sequence[frozenset[int]],
    extents: Vector,
    candidates: Sequence[tuple[tuple[str, str, Any], list[frozenset[int]]]],
) -> Place | None:
    """The condition on `layer` that yields exactly `present` in every observation; () for all layers, None if none."""
    if all(len(layers) == extent for layers, extent in zip(present, extents, strict=True)):
        return ()
    if not any(present):
        return None
    conjunction = _fit_conjunction(present, candidates)
    if conjunction is None:
        rest = [frozenset(range(extent)) - layers for layers, extent in zip(present, extents, strict=True)]
        opposite = _fit_conjunction(rest, candidates)
        return None if opposite is None else (("not", "", opposite),)
    return conjunction


def _fit_conjunction(
    present: Sequence[frozenset[int]], candidates: Sequence[tuple[tuple[str, str, Any], list[frozenset[int]]]]
) -> Place | None:
    for place, sets in candidates:
        if sets == list(present):
            return (place,)
    useful = [each for each in candidates if all(wanted <= x for x, wanted in zip(each[1], present, strict=True))]
    for size in (2, 3):
        for combination in itertools.combinations(useful[: MOST_PLACES_COMBINED[size]], size):
            if all(
                frozenset.intersection(*sets) == wanted
                for *sets, wanted in zip(*(each[1] for each in combination), present, strict=True)
            ):
                return tuple(place for place, _ in combination)
    return None


def places(
    extents: Vector, fields: Mapping[str, Vector], lists: Mapping[str, Sequence[Sequence[Any]]]
) -> Iterable[tuple[tuple[str, str, Any], list[frozenset[int]]]]:
    """Every condition of the known forms, with the layers it yields in each observation."""

    def sets(test: Any) -> list[frozenset[int]]:
        return [frozenset(n for n in range(extent) if test(n, at)) for at, extent in enumerate(extents)]

    fields = {name: values for name, values in fields.items() if PLACE_FIELD.search(name)}
    bounds = [("1", (1,) * len(extents)), ("2", (2,) * len(extents)), *fields.items()]
    bounds += [(f"{name}-1", tuple(value - 1 for value in values)) for name, values in fields.items()]
    for name, values in bounds:
        yield ("<", "layer", name), sets(lambda n, at, v=values: n < v[at])
        yield (">=", "layer", name), sets(lambda n, at, v=values: n >= v[at])
    for name, items in lists.items():
        if any(not isinstance(each, list | tuple) for each in items):
            continue
        if all(len(each) >= extent for each, extent in zip(items, extents, strict=True)):
            for value in sorted({value for each in items for value in each}, key=str):
                yield ("item", name, value), sets(lambda n, at, i=items, v=value: i[at][n] == v)
                yield ("not item", name, value), sets(lambda n, at, i=items, v=value: i[at][n] != v)
        if all(isinstance(value, int) for each in items for value in each):
            yield ("holds", name, None), sets(lambda n, at, i=items: n in i[at])
            yield ("lacks", name, None), sets(lambda n, at, i=items: n not in i[at])
    periods = [(str(each), (each,) * len(extents)) for each in (2, 3, 4, 6, 8)]
    periods += [(name, values) for name, values in fields.items() if all(value > 0 for value in values)]
    for name, values in periods:
        offsets = [("0", (0,) * len(extents)), ("1", (1,) * len(extents)), *fields.items()]
        for offset, shifts in offsets:
            for sign in ("+", "-"):
                where = "layer" if offset == "0" else f"(layer{sign}{offset})"
                factor = 1 if sign == "+" else -1
                for operator in ("==", "!="):
                    yield (
                        (operator, f"{where}%{name}", "0"),
                        sets(
                            lambda n, at, v=values, s=shifts, f=factor, o=operator: (
                                ((n + f * s[at]) % v[at] == 0) is (o == "==")
                            )
                        ),
                    )


def fit_condition(
    states: Sequence[Mapping[str, Any]], present: Sequence[bool]
) -> tuple[tuple[tuple[str, Any], ...], ...] | None:
    """Alternatives of conjunctions over toggles that hold exactly in the `present` states; () for always."""
    if all(present):
        return ()
    remaining = {at for at, is_present in enumerate(present) if is_present}
    absent = [state for state, is_present in zip(states, present, strict=True) if not is_present]
    alternatives = []
    while remaining:
        terms, covered = _best_conjunction([states[at] for at in sorted(remaining)], absent)
        if not covered:
            return None
        alternatives.append(terms)
        remaining = {at for at in remaining if not all(states[at][f] == v for f, v in terms)}
    return tuple(sorted(alternatives, key=str))


def _best_conjunction(
    wanted: Sequence[Mapping[str, Any]], unwanted: Sequence[Mapping[str, Any]]
) -> tuple[tuple[tuple[str, Any], ...], int]:
    """The shortest conjunction that no unwanted state meets and that the most wanted states meet."""
    literals = sorted({(field, value) for state in wanted for field, value in state.items()}, key=str)
    best: tuple[tuple[tuple[str, Any], ...], int] = ((), 0)
    for size in (1, 2, 3, 4):
        for terms in itertools.combinations(literals, size):
            if len({field for field, _ in terms}) < size:
                continue
            if any(all(state[f] == v for f, v in terms) for state in unwanted):
                continue
            covered = sum(all(state[f] == v for f, v in terms) for state in wanted)
            if covered > best[1]:
                best = (terms, covered)
        if best[1]:
            return best
    return best
