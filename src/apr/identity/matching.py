"""One atlas entry held against a file's names and shapes: what it lacks, what it does not know, what follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from apr.errors import AprError
from apr.identity.entries import ANY_SIZE, MOST_TENSORS, Entry, Place, Template, place_holds
from apr.identity.folding import fold_names
from apr.identity.names import FileNames, Numbers, find_group, make_group
from apr.identity.settings import SeenTemplate, choose_settings, may_be_absent
from apr.identity.shapes import evaluate
from apr.identity.solving import Solution, solve
from apr.identity.types import Candidate

_CONFLICTS_SHOWN = 6


class Account(NamedTuple):
    """One entry held against a file: leftovers on both sides by full name, and what was solved.

    unfilled: names the entry wants and the file lacks (a pattern with its `{layer}` where its extent is unknown).
    dimensions: config fields solved from shapes, under the names of the class. settings: the flags that suit best.
    """

    entry: Entry
    unfilled: tuple[str, ...]
    unused: tuple[str, ...]
    shape_conflicts: tuple[str, ...]
    dimensions: Mapping[str, int]
    settings: Mapping[str, Any]

    @property
    def explains_all(self) -> bool:
        return not (self.unfilled or self.unused or self.shape_conflicts)

    @property
    def leftovers(self) -> int:
        return len(self.unfilled) + len(self.unused) + len(self.shape_conflicts)

    def candidate(self) -> Candidate:
        """The account as the public type: names folded, dimensions under the names common to all config classes."""
        common = {own: alias for alias, own in self.entry.aliases.items()}
        return Candidate(
            self.entry.architecture,
            _folded(self.unfilled),
            _folded(self.unused),
            self.shape_conflicts,
            {common.get(name, name): value for name, value in self.dimensions.items()},
        )


def _folded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, _ in fold_names(names))


def match(
    entry: Entry,
    names: FileNames,
    known: Mapping[str, int] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Account:
    """The account of `entry`: leftovers on both sides, shape conflicts, and the dimensions solved from shapes.

    Config flags that decide which tensors exist are chosen as the file's tensors suit best, so a healthy file of the
    architecture leaves nothing over whatever its flags are. known: fields taken for granted (own names of the class).
    recorded: fields of a recorded config, whose flags are preferred where the tensors leave a choice.
    """
    seen = [SeenTemplate(template, find_group(template.pattern, names)) for template in entry.templates]
    settings, chosen = choose_settings(entry, seen, recorded or {})
    chosen = _parted(chosen, names)
    solution = solve(_equations(chosen, names), known)
    fields = {**settings, **solution.values}
    unfilled = [name for each in chosen for name in _unfilled(each, fields, chosen)]
    conflicts = [*_rank_conflicts(chosen, names), *solution.conflicts, *_unequal(settings, solution)]
    return Account(
        entry=entry,
        unfilled=tuple(unfilled),
        unused=tuple(_unused(chosen, names)),
        shape_conflicts=tuple(conflicts[:_CONFLICTS_SHOWN]),
        dimensions=dict(sorted(solution.values.items())),
        settings=settings,
    )


def _unused(chosen: Sequence[SeenTemplate], names: FileNames) -> Iterator[str]:
    """File tensors that no chosen template bears the name of."""
    used = {id(each.group) for each in chosen if each.group is not None}
    parts = [each.group for each in chosen if each.group is not None]
    by_name: set[str] | None = None
    for group in names.groups.values():
        if id(group) in used:
            continue
        if by_name is None:
            by_name = {name for part in parts for name in part.rows.values()}
        yield from (name for name in group.rows.values() if name not in by_name)


def _parted(chosen: Sequence[SeenTemplate], names: FileNames) -> list[SeenTemplate]:
    """Templates of one pattern that share it layer by layer, each with the layers whose shape has its rank.

    Where rules tell the layers apart by fields that are not known yet, tensors of one name stay together.
    """
    patterns: dict[str, list[SeenTemplate]] = {}
    for each in chosen:
        patterns.setdefault(each.template.pattern, []).append(each)
    parted = []
    for each in chosen:
        siblings = patterns[each.template.pattern]
        if len(siblings) == 1 or each.group is None:
            parted.append(each)
            continue
        rank = len(each.template.dims)
        rows = {numbers: name for numbers, name in each.group.rows.items() if len(names.shapes[name]) == rank}
        parted.append(SeenTemplate(each.template, make_group(rows, names.shapes) if rows else None))
    return parted


def _rank_conflicts(chosen: Sequence[SeenTemplate], names: FileNames) -> Iterator[str]:
    for each in chosen:
        template, group = each.template, each.group
        if group is None or template.is_optional or template.is_loose:
            continue
        rank = len(template.dims)
        if group.shape is not None and len(group.shape) == rank:
            continue
        wrong = next((name for name in group.rows.values() if len(names.shapes[name]) != rank), None)
        if wrong is not None:
            yield f"{wrong}: {list(names.shapes[wrong])} where [{', '.join(template.dims)}] is expected"


def _unequal(settings: Mapping[str, Any], solution: Solution) -> Iterator[str]:
    """Equalities of two fields that were chosen for the tensors' sake, but that the shapes deny."""
    for name, chosen in settings.items():
        left, is_equality, right = name.partition("==")
        values = [int(each) if each.isdigit() else solution.values.get(each) for each in (left, right)]
        if is_equality and None not in values and (values[0] == values[1]) is not chosen:
            relation = "equal" if chosen else "different"
            yield f"{left} and {right} would have to be {relation}, the shapes show {values[0]} and {values[1]}"


def _equations(chosen: Sequence[SeenTemplate], names: FileNames) -> dict[str, dict[int, str]]:
    """`expression -> {number: an example tensor}` from dimensions and from how far the loops reach."""
    equations: dict[str, dict[int, str]] = {}
    ends: dict[str, tuple[int, str]] = {}
    for each in chosen:
        template, group = each.template, each.group
        if group is None or template.is_optional or template.is_loose:
            continue
        example = next(iter(group.rows.values()))
        if not template.where:
            for (_, extent), end in zip(template.loops, group.ends, strict=True):
                ends[extent] = max(ends.get(extent, (0, "")), (end, example))
        rows = [(example, group.shape)] if group.shape is not None else _shaped(group.rows.values(), names)
        for name, shape in rows:
            if len(shape) == len(template.dims):
                for dim, size in zip(template.dims, shape, strict=True):
                    if dim == ANY_SIZE:
                        continue
                    equations.setdefault(dim, {}).setdefault(size, name)
    equations |= {extent: {end: example} for extent, (end, example) in ends.items()}
    return equations


def _shaped(rows: Any, names: FileNames) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((name, names.shapes[name]) for name in rows)


def _unfilled(each: SeenTemplate, fields: Mapping[str, Any], chosen: Sequence[SeenTemplate]) -> Iterator[str]:
    """Tensors of a template that the file lacks; one pattern stands for all where its extent is not known."""
    template = each.template
    if may_be_absent(template):
        return
    extents = None if template.is_loose else _extents(template, fields)
    if extents is None:
        if each.group is None:
            yield template.pattern
        return
    if prod(extents) > MOST_TENSORS:
        yield template.pattern
        return
    if each.group is not None and not template.where and each.group.ends == extents and each.group.is_full:
        return
    rows = each.group.rows if each.group is not None else {}
    layers = _layers(template, fields, extents[0], chosen) if template.where else None
    loop_names = [name for name, _ in template.loops]
    for numbers in product(*(range(extent) for extent in extents)):
        if numbers not in rows and (layers is None or numbers[0] in layers):
            yield template.pattern.format(**dict(zip(loop_names, numbers, strict=True)))


def _extents(template: Template, fields: Mapping[str, Any]) -> Numbers | None:
    """How far each loop reaches; None where a field is not known."""
    try:
        return tuple(max(evaluate(extent, fields), 0) for _, extent in template.loops)
    except AprError:
        return None


def _layers(template: Template, fields: Mapping[str, Any], count: int, chosen: Sequence[SeenTemplate]) -> set[int]:
    """Layers a template belongs to: by its rule when the fields of the rule are known, else where siblings stand."""
    try:
        return {layer for layer in range(count) if place_holds(template.where, {**fields, "layer": layer})}
    except AprError:
        found = _seen_layers(chosen, template.where)
        others = opposite(template.where)
        if any(each.template.where == others for each in chosen):
            found |= set(range(count)) - _seen_layers(chosen, others)
        return found


def _seen_layers(chosen: Sequence[SeenTemplate], place: Place) -> set[int]:
    groups = [each.group for each in chosen if each.template.where == place and each.group is not None]
    return {numbers[0] for group in groups for numbers in group.rows}


_OPPOSITES = {"<": ">=", ">=": "<", "==": "!=", "!=": "==", "item": "not item", "not item": "item"}
_OPPOSITES |= {"holds": "lacks", "lacks": "holds"}


def opposite(place: Place) -> Place:
    """The rule of all layers that `place` leaves out."""
    if len(place) != 1:
        return (("not", "", place),)
    operator, left, right = place[0]
    if operator == "not":
        return tuple(right)
    return ((_OPPOSITES[operator], left, right),)
