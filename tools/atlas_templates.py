"""From sightings of a class to its templates: names with placeholders, symbolic shapes, conditions, ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from atlas_fit import ExpressionFitter, Place, fit_condition, fit_place, places
from atlas_observe import Relevance, Sighting

NumberedName = tuple[str, ...]
Rows = dict[tuple[int, ...], tuple[tuple[int, ...], str | None]]
Part = Mapping[int, Rows]

FEWEST_OBSERVATIONS = 5
"""Fewer sightings would let a coincidence pass for a law."""

MOST_LITERAL_NUMBERS = 8
"""More numbers at one place of a name are always a loop (experts), even when their count was never varied."""


class UnfittedError(Exception):
    """No expression, place or condition of the known forms explains what was seen."""


class TemplateFitter:
    """Fits the templates of one class; a part maps sightings to the loop numbers of a pattern seen there."""

    def __init__(self, sightings: Sequence[Sighting], relevance: Relevance) -> None:
        self.sightings = sightings
        self.relevance = relevance
        self.extents = _extents([sighting.observed.shapes for sighting in sightings])
        self._fitters: dict[tuple[int, ...], ExpressionFitter] = {}

    def rows(self) -> list[list[Any]]:
        """Atlas rows `[pattern, dims, {loops, when, where, tied}]` that explain every sighting, or UnfittedError."""
        found = []
        for pattern, part in sorted(self._patterns().items()):
            names = _loop_names(pattern)
            for tied_to, tied_part in _by_tie(names, part).items():
                found += self._rows(pattern, names, tied_part, tied_to)
        return found

    def _patterns(self) -> dict[NumberedName, dict[int, Rows]]:
        """Patterns whose remaining `#` are loops; for each sighting the loop numbers with shape and tie."""
        found: dict[NumberedName, dict[int, Rows]] = defaultdict(lambda: defaultdict(dict))
        for at, sighting in enumerate(self.sightings):
            for name, shape in sighting.observed.shapes.items():
                pattern, numbers = [], []
                generic: tuple[str, ...] = ()
                for part in name.split("."):
                    is_loop = part.isdigit() and not _is_literal(self.extents[generic])
                    pattern.append("#" if is_loop else part)
                    if is_loop:
                        numbers.append(int(part))
                    generic = (*generic, "#" if part.isdigit() else part)
                found[tuple(pattern)][at][tuple(numbers)] = (shape, sighting.observed.ties.get(name))
        return found

    def _rows(self, pattern: NumberedName, names: list[str], part: Part, tied_to: str | None) -> list[list[Any]]:
        """One row, or several when the shape depends on the state or on the layer."""
        text = _text(pattern, names)
        loops, inner_counts = self._loops(pattern, names, part)
        rows = []
        for uniform in self._uniform(pattern, part):
            where, domain = self._where(pattern, uniform, inner_counts) if names else ((), set(uniform))
            for subset, dims in self._dims(pattern, uniform):
                covered = subset | (domain - set(uniform)) if len(subset) == len(uniform) else subset
                extra: dict[str, Any] = {"loops": loops} if loops else {}
                condition = self._condition(text, covered)
                extra |= {"when": condition} if condition else {}
                extra |= {"where": [list(each) for each in where]} if where else {}
                extra |= {"tied": tied_to} if tied_to is not None else {}
                rows.append([text, dims, extra] if extra else [text, dims])
        return rows

    def _loops(
        self, pattern: NumberedName, names: list[str], part: Part
    ) -> tuple[list[tuple[str, str]], dict[int, int]]:
        """(name, extent expression) of each loop, and for each sighting how many tensors one layer should have."""
        chosen = tuple(sorted(part))
        positions = [at for at, piece in enumerate(pattern) if piece == "#"]
        loops = []
        inner_counts = dict.fromkeys(chosen, 1)
        for name, position in zip(names, positions, strict=True):
            seen = self.extents[_generic(pattern, position)]
            extent = self._fitter(chosen).fit(tuple(max(seen[at]) + 1 for at in chosen))
            if extent is None:
                raise UnfittedError(f"no extent for {'.'.join(pattern)}")
            loops.append((name, extent))
            if position != positions[0]:
                inner_counts = {at: count * len(seen[at]) for at, count in inner_counts.items()}
        return loops, inner_counts

    def _uniform(self, pattern: NumberedName, part: Part) -> Iterator[Part]:
        """The part as it is when all layers of a sighting have one shape, else split by a rule over layers."""
        if all(len({shape for shape, _ in rows.values()}) == 1 for rows in part.values()):
            yield part
            return
        chosen = tuple(sorted(part))
        for _, sets in self._places(pattern, chosen):
            inside = _restricted(part, dict(zip(chosen, sets, strict=True)), is_inside=True)
            outside = _restricted(part, dict(zip(chosen, sets, strict=True)), is_inside=False)
            if inside and outside and all(len({shape for shape, _ in rows.values()}) == 1 for rows in inside.values()):
                yield inside
                yield from self._uniform(pattern, outside)
                return
        raise UnfittedError(f"shapes differ between layers: {'.'.join(pattern)}")

    def _where(self, pattern: NumberedName, part: Part, inner_counts: Mapping[int, int]) -> tuple[Place, set[int]]:
        """The rule for the layers of a part, and the sightings it speaks of (those without any such layer too)."""
        position = pattern.index("#")
        for at, rows in part.items():
            if len(rows) != len({numbers[0] for numbers in rows}) * inner_counts[at]:
                raise UnfittedError(f"inner numbers differ between layers: {'.'.join(pattern)}")
        everywhere = tuple(sorted(self.extents[_generic(pattern, position)]))
        shared = self._shared_settings(part)
        in_state = tuple(at for at in everywhere if shared.items() <= self.sightings[at].state.items())
        for domain in dict.fromkeys((everywhere, in_state, tuple(sorted(part)))):
            present = [frozenset(numbers[0] for numbers in part.get(at, ())) for at in domain]
            place = fit_place(present, self._layer_counts(pattern, domain), self._places(pattern, domain))
            if place is not None:
                return place, set(domain)
        raise UnfittedError(f"no rule for the layers of {'.'.join(pattern)}")

    def _shared_settings(self, part: Part) -> dict[str, Any]:
        """The toggles that have one setting wherever the pattern was seen."""
        states = [self.sightings[at].state for at in part]
        return {name: value for name, value in states[0].items() if all(state.get(name) == value for state in states)}

    def _places(
        self, pattern: NumberedName, chosen: Sequence[int]
    ) -> list[tuple[tuple[str, str, Any], list[frozenset[int]]]]:
        lists = {
            name: [self.sightings[at].observed.attributes.get(name) or () for at in chosen]
            for name in self.relevance.lists
        }
        return list(places(self._layer_counts(pattern, chosen), self._fields(chosen), lists))

    def _layer_counts(self, pattern: NumberedName, chosen: Sequence[int]) -> tuple[int, ...]:
        seen = self.extents[_generic(pattern, pattern.index("#"))]
        return tuple(max(seen[at]) + 1 for at in chosen)

    def _dims(self, pattern: NumberedName, part: Part) -> list[tuple[set[int], list[str]]]:
        """Dimension expressions; by state when they follow different ones in different states."""
        whole = self._fit_each([sorted(part)], part, fewest=1)
        if whole is not None:
            return whole
        for size in (1, 2):
            for deciding in combinations(self.relevance.toggles, size):
                settings: dict[tuple[Any, ...], list[int]] = defaultdict(list)
                for at in sorted(part):
                    settings[tuple(self.sightings[at].state[name] for name in deciding)].append(at)
                grouped = self._fit_each(settings.values(), part, fewest=FEWEST_OBSERVATIONS)
                if grouped is not None:
                    return grouped
        raise UnfittedError(f"no shape for {'.'.join(pattern)}")

    def _fit_each(
        self, settings: Iterable[Sequence[int]], part: Part, fewest: int
    ) -> list[tuple[set[int], list[str]]] | None:
        grouped: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for chosen in settings:
            shapes = [next(iter(part[at].values()))[0] for at in chosen]
            if len(chosen) < fewest or len({len(shape) for shape in shapes}) > 1:
                return None
            dims = [self._fitter(tuple(chosen)).fit(vector) for vector in zip(*shapes, strict=True)]
            if None in dims:
                return None
            grouped[tuple(str(dim) for dim in dims)].update(chosen)
        return [(subset, list(dims)) for dims, subset in grouped.items()]

    def _condition(self, text: str, covered: set[int]) -> Any:
        present = [at in covered for at in range(len(self.sightings))]
        condition = fit_condition([sighting.state for sighting in self.sightings], present)
        if condition is None:
            integers = self.relevance.integers
            condition = fit_condition([{**each.state, **each.features(integers)} for each in self.sightings], present)
        if condition is None:
            raise UnfittedError(f"no condition for {text}")
        return condition

    def _fitter(self, chosen: tuple[int, ...]) -> ExpressionFitter:
        if chosen not in self._fitters:
            self._fitters[chosen] = ExpressionFitter(self._fields(chosen))
        return self._fitters[chosen]

    def _fields(self, chosen: Sequence[int]) -> dict[str, tuple[int, ...]]:
        fields = {}
        for name in self.relevance.integers:
            values = [self.sightings[at].observed.attributes.get(name) for at in chosen]
            if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
                fields[name] = tuple(values)
        return fields


def _extents(shapes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[int, set[int]]]:
    """For each path that ends before a number: the numbers seen there, for each sighting."""
    seen: dict[tuple[str, ...], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for at, names in enumerate(shapes):
        for name in names:
            parts = name.split(".")
            for position, part in enumerate(parts):
                if part.isdigit():
                    seen[tuple("#" if each.isdigit() else each for each in parts[:position])][at].add(int(part))
    return seen


def _is_literal(numbers: Mapping[int, set[int]]) -> bool:
    """Numbers that never change (`mlp.0`, `mlp.2`) are part of the name, not a loop."""
    distinct = {frozenset(each) for each in numbers.values()}
    return len(distinct) == 1 and len(next(iter(distinct))) <= MOST_LITERAL_NUMBERS


def _generic(pattern: NumberedName, length: int) -> tuple[str, ...]:
    return tuple("#" if part.isdigit() else part for part in pattern[:length])


def _loop_names(pattern: NumberedName) -> list[str]:
    names: list[str] = []
    for at, part in enumerate(pattern):
        if part == "#":
            is_expert = names and pattern[at - 1] == "experts"
            names.append("expert" if is_expert else "layer" if not names else f"number{at}")
    return names


def _text(pattern: NumberedName, names: list[str]) -> str:
    placeholders = iter(names)
    return ".".join("{" + next(placeholders) + "}" if part == "#" else part for part in pattern)


def _by_tie(names: list[str], part: Part) -> dict[str | None, dict[int, Rows]]:
    groups: dict[str | None, dict[int, Rows]] = defaultdict(lambda: defaultdict(dict))
    for at, rows in part.items():
        for numbers, (shape, tied_to) in rows.items():
            target = tied_to
            if tied_to is not None and names:
                target = ".".join(
                    "{" + names[0] + "}" if piece == str(numbers[0]) else piece for piece in tied_to.split(".")
                )
            groups[target][at][numbers] = (shape, target)
    return groups


def _restricted(part: Part, layers: Mapping[int, frozenset[int]], *, is_inside: bool) -> dict[int, Rows]:
    restricted = {
        at: {numbers: row for numbers, row in rows.items() if (numbers[0] in layers[at]) is is_inside}
        for at, rows in part.items()
    }
    return {at: rows for at, rows in restricted.items() if rows}
