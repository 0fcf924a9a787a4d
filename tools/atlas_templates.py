"""From sightings of a class to its templates: names with placeholders, symbolic shapes, conditions, ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from atlas_fit import ExpressionFitter, fit_condition, fit_place
from atlas_observe import Relevance, Sighting

NumberedName = tuple[str, ...]
FEWEST_OBSERVATIONS = 5
"""Fewer sightings would let a coincidence pass for a law."""

Rows = dict[tuple[int, ...], tuple[tuple[int, ...], str | None]]


class UnfittedError(Exception):
    """No expression, place or condition of the known forms explains what was seen."""


def fit_templates(sightings: Sequence[Sighting], relevance: Relevance) -> list[list[Any]]:
    """Atlas rows `[pattern, dims, {loops, when, where, tied}]` that explain every sighting; UnfittedError if none."""
    extents = _extents([sighting.observed.shapes for sighting in sightings])
    fitters: dict[tuple[int, ...], ExpressionFitter] = {}
    rows = []
    for pattern, by_sighting in sorted(_patterns(sightings, extents).items()):
        rows += _fit_pattern(pattern, by_sighting, sightings, relevance, extents, fitters)
    return rows


def _split(name: str) -> tuple[NumberedName, tuple[int, ...]]:
    parts = name.split(".")
    return (
        tuple("#" if part.isdigit() else part for part in parts),
        tuple(int(part) for part in parts if part.isdigit()),
    )


def _extents(shapes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[int, set[int]]]:
    """For each path that ends before a number: the numbers seen there, for each sighting."""
    seen: dict[tuple[str, ...], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for at, names in enumerate(shapes):
        for name in names:
            parts = name.split(".")
            for position, part in enumerate(parts):
                if part.isdigit():
                    prefix = tuple("#" if each.isdigit() else each for each in parts[:position])
                    seen[prefix][at].add(int(part))
    return seen


def _is_literal(numbers: Mapping[int, set[int]]) -> bool:
    """Numbers that never change (`mlp.0`, `mlp.2`) are part of the name, not a loop."""
    distinct = {frozenset(each) for each in numbers.values()}
    if len(distinct) > 1:
        return False
    return len(next(iter(distinct))) <= 8


def _patterns(
    sightings: Sequence[Sighting], extents: Mapping[tuple[str, ...], dict[int, set[int]]]
) -> dict[NumberedName, dict[int, Rows]]:
    """Patterns whose remaining `#` are loops; for each sighting the loop numbers with shape and tie."""
    found: dict[NumberedName, dict[int, Rows]] = defaultdict(lambda: defaultdict(dict))
    for at, sighting in enumerate(sightings):
        for name, shape in sighting.observed.shapes.items():
            pattern, numbers = [], []
            generic: tuple[str, ...] = ()
            for part in name.split("."):
                is_loop = part.isdigit() and not _is_literal(extents[generic])
                pattern.append("#" if is_loop else part)
                if is_loop:
                    numbers.append(int(part))
                generic = (*generic, "#" if part.isdigit() else part)
            found[tuple(pattern)][at][tuple(numbers)] = (shape, sighting.observed.ties.get(name))
    return found


def _generic(pattern: NumberedName, length: int) -> tuple[str, ...]:
    return tuple("#" if part.isdigit() else part for part in pattern[:length])


def _fit_pattern(
    pattern: NumberedName,
    by_sighting: Mapping[int, Rows],
    sightings: Sequence[Sighting],
    relevance: Relevance,
    extents: Mapping[tuple[str, ...], dict[int, set[int]]],
    fitters: dict[tuple[int, ...], ExpressionFitter],
) -> list[list[Any]]:
    """One row, or several when the shape or the tie depends on the state or on the layer."""
    text, names = _placeholders(pattern)
    groups = _by_tie(text, names, by_sighting)
    rows = []
    for tied_to, part in groups.items():
        chosen = tuple(sorted(part))
        fitter = fitters.setdefault(chosen, ExpressionFitter(_fields(sightings, chosen, relevance)))
        for subset, dims, loops, where in _fit_shapes(pattern, names, part, sightings, relevance, extents, fitter):
            present = [at in subset for at in range(len(sightings))]
            condition = fit_condition([sighting.state for sighting in sightings], present)
            if condition is None:
                condition = fit_condition(
                    [{**each.state, **each.features(relevance.integers)} for each in sightings], present
                )
            if condition is None:
                raise UnfittedError(f"no condition for {text}")
            extra: dict[str, Any] = {}
            if loops:
                extra["loops"] = loops
            if condition:
                extra["when"] = condition
            if where:
                extra["where"] = where
            if tied_to is not None:
                extra["tied"] = tied_to
            rows.append([text, dims, extra] if extra else [text, dims])
    return rows


def _placeholders(pattern: NumberedName) -> tuple[str, list[str]]:
    names: list[str] = []
    parts = []
    for at, part in enumerate(pattern):
        if part == "#":
            name = "expert" if pattern[at - 1] == "experts" and names else ("layer" if not names else f"number{at}")
            names.append(name)
            part = "{" + name + "}"
        parts.append(part)
    return ".".join(parts), names


def _by_tie(text: str, names: list[str], by_sighting: Mapping[int, Rows]) -> dict[str | None, dict[int, Rows]]:
    groups: dict[str | None, dict[int, Rows]] = defaultdict(lambda: defaultdict(dict))
    for at, rows in by_sighting.items():
        for numbers, (shape, tied_to) in rows.items():
            if tied_to is not None and names:
                tied_to = ".".join(
                    "{" + names[0] + "}" if part == str(numbers[0]) and part.isdigit() else part
                    for part in tied_to.split(".")
                )
            groups[tied_to][at][numbers] = (shape, tied_to)
    return groups


def _fields(sightings: Sequence[Sighting], chosen: Sequence[int], relevance: Relevance) -> dict[str, tuple[int, ...]]:
    fields = {}
    for name in relevance.integers:
        values = [sightings[at].observed.attributes.get(name) for at in chosen]
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            fields[name] = tuple(values)
    return fields


def _fit_shapes(
    pattern: NumberedName,
    names: list[str],
    part: Mapping[int, Rows],
    sightings: Sequence[Sighting],
    relevance: Relevance,
    extents: Mapping[tuple[str, ...], dict[int, set[int]]],
    fitter: ExpressionFitter,
) -> list[tuple[set[int], list[str], list[tuple[str, str]], list[Any]]]:
    chosen = tuple(sorted(part))
    positions = [at for at, piece in enumerate(pattern) if piece == "#"]
    loops = []
    for name, position in zip(names, positions, strict=True):
        seen = extents[_generic(pattern, position)]
        extent = fitter.fit(tuple(max(seen[at]) + 1 for at in chosen))
        if extent is None:
            raise UnfittedError(f"no extent for {'.'.join(pattern)}")
        loops.append((name, extent))
    where = _fit_where(pattern, positions, part, sightings, relevance, extents, fitter) if names else []
    shapes = [{shape for shape, _ in part[at].values()} for at in chosen]
    if any(len(each) > 1 for each in shapes):
        raise UnfittedError(f"shapes differ between layers: {'.'.join(pattern)}")
    vectors = list(zip(*(next(iter(each)) for each in shapes), strict=True))
    dims = [fitter.fit(vector) for vector in vectors]
    if all(dim is not None for dim in dims):
        return [(set(chosen), [str(dim) for dim in dims], loops, where)]
    return _fit_by_state(pattern, part, sightings, relevance, loops, where)


def _fit_by_state(
    pattern: NumberedName,
    part: Mapping[int, Rows],
    sightings: Sequence[Sighting],
    relevance: Relevance,
    loops: list[tuple[str, str]],
    where: list[Any],
) -> list[tuple[set[int], list[str], list[tuple[str, str]], list[Any]]]:
    """Shapes that follow different expressions in different states: the fewest toggles that separate them."""
    for size in (1, 2):
        for deciding in combinations(relevance.toggles, size):
            settings: dict[tuple[Any, ...], list[int]] = defaultdict(list)
            for at in sorted(part):
                settings[tuple(sightings[at].state[name] for name in deciding)].append(at)
            grouped = _fit_each(settings.values(), part, sightings, relevance)
            if grouped is not None:
                return [(subset, list(dims), loops, where) for dims, subset in grouped.items()]
    raise UnfittedError(f"no shape for {'.'.join(pattern)}")


def _fit_each(
    settings: Iterable[list[int]], part: Mapping[int, Rows], sightings: Sequence[Sighting], relevance: Relevance
) -> dict[tuple[str, ...], set[int]] | None:
    grouped: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for chosen in settings:
        fitter = ExpressionFitter(_fields(sightings, chosen, relevance))
        shapes = [next(iter(part[at].values()))[0] for at in chosen]
        if len(chosen) < FEWEST_OBSERVATIONS or len({len(shape) for shape in shapes}) > 1:
            return None
        dims = tuple(fitter.fit(vector) for vector in zip(*shapes, strict=True))
        if None in dims:
            return None
        grouped[tuple(str(dim) for dim in dims)].update(chosen)
    return grouped


def _fit_where(
    pattern: NumberedName,
    positions: list[int],
    part: Mapping[int, Rows],
    sightings: Sequence[Sighting],
    relevance: Relevance,
    extents: Mapping[tuple[str, ...], dict[int, set[int]]],
    fitter: ExpressionFitter,
) -> list[Any]:
    chosen = tuple(sorted(part))
    present = [frozenset(numbers[0] for numbers in part[at]) for at in chosen]
    for at, layers in zip(chosen, present, strict=True):
        inner = [len(extents[_generic(pattern, position)][at]) for position in positions[1:]]
        wanted = len(layers)
        for count in inner:
            wanted *= count
        if len(part[at]) != wanted:
            raise UnfittedError(f"inner numbers differ between layers: {'.'.join(pattern)}")
    seen = extents[_generic(pattern, positions[0])]
    lists = {name: [sightings[at].observed.attributes.get(name) or () for at in chosen] for name in relevance.lists}
    place = fit_place(present, tuple(max(seen[at]) + 1 for at in chosen), fitter.fields, lists)
    if place is None:
        raise UnfittedError(f"no rule for the layers of {'.'.join(pattern)}")
    return [list(each) for each in place]
