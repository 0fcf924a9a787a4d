"""One atlas entry held against a file's names and shapes: what it lacks, what it does not know, what follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from apr.errors import AprError
from apr.identity.entries import Entry, Place, Template, place_holds
from apr.identity.folding import fold_names
from apr.identity.settings import SeenTemplate, choose_settings, may_be_absent
from apr.identity.shapes import evaluate
from apr.identity.solving import Solution, solve
from apr.identity.types import Candidate

Shapes = Mapping[str, tuple[int, ...]]
_CONFLICTS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class FileNames:
    """A file's tensors, grouped by their name with every number written `#`.

    shapes: tensors that hold bytes. placeholders: names stored with zero bytes. groups: digit pattern to rows of
    (numbers, name).
    """

    shapes: Shapes
    placeholders: frozenset[str]
    groups: Mapping[str, Sequence[tuple[tuple[int, ...], str]]]


def file_names(shapes: Shapes, placeholders: frozenset[str] = frozenset()) -> FileNames:
    """`shapes` grouped for matching; computed once for all entries."""
    groups: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for name in shapes:
        parts = name.split(".")
        numbers = tuple(int(part) for part in parts if _is_number(part))
        groups.setdefault(".".join("#" if _is_number(part) else part for part in parts), []).append((numbers, name))
    return FileNames(shapes, placeholders, groups)


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 8


@dataclass(frozen=True, slots=True)
class Account:
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
    seen = [_seen(template, names) for template in entry.templates]
    settings, chosen = choose_settings(entry, seen, recorded or {})
    solution = solve(_equations(chosen, names), known)
    fields = {**settings, **solution.values}
    unfilled = [name for each in chosen for name in _unfilled(each, fields, chosen)]
    used = {name for each in chosen for name in each.rows.values()}
    unused = [name for name in names.shapes if name not in used]
    conflicts = [*_rank_conflicts(chosen, names), *solution.conflicts, *_unequal(settings, solution)]
    return Account(
        entry=entry,
        unfilled=tuple(unfilled),
        unused=tuple(unused),
        shape_conflicts=tuple(conflicts[:_CONFLICTS_SHOWN]),
        dimensions=dict(sorted(solution.values.items())),
        settings=settings,
    )


def _seen(template: Template, names: FileNames) -> SeenTemplate:
    rows = dict(_rows(template, names))
    fits_rank = (
        template.is_loose
        or template.is_optional
        or all(len(names.shapes[name]) == len(template.dims) for name in rows.values())
    )
    return SeenTemplate(template, rows, fits_rank)


def _folded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, _ in fold_names(names))


def _rows(template: Template, names: FileNames) -> Iterator[tuple[tuple[int, ...], str]]:
    if template.is_loose:
        yield from names.groups.get(template.pattern, ())
        return
    pieces = [piece for piece in template.pattern.split(".") if piece.isdigit() or piece.startswith("{")]
    generic = ".".join(
        "#" if piece.isdigit() or piece.startswith("{") else piece for piece in template.pattern.split(".")
    )
    for numbers, name in names.groups.get(generic, ()):
        if all(piece.startswith("{") or int(piece) == number for piece, number in zip(pieces, numbers, strict=True)):
            yield tuple(n for piece, n in zip(pieces, numbers, strict=True) if piece.startswith("{")), name


def _rank_conflicts(chosen: Sequence[SeenTemplate], names: FileNames) -> Iterator[str]:
    for each in chosen:
        for name in () if each.fits_rank else each.rows.values():
            if len(names.shapes[name]) != len(each.template.dims):
                yield f"{name}: {list(names.shapes[name])} where [{', '.join(each.template.dims)}] is expected"
                break


def _unequal(settings: Mapping[str, Any], solution: Solution) -> Iterator[str]:
    """Equalities of two fields that were chosen for the tensors' sake, but that the shapes deny."""
    for name, chosen in settings.items():
        left, is_equality, right = name.partition("==")
        values = [int(each) if each.isdigit() else solution.values.get(each) for each in (left, right)]
        if is_equality and None not in values and (values[0] == values[1]) is not chosen:
            relation = "equal" if chosen else "different"
            yield f"{left} and {right} would have to be {relation}, the shapes show {values[0]} and {values[1]}"


def _equations(chosen: Sequence[SeenTemplate], names: FileNames) -> dict[str, dict[int, str]]:
    equations: dict[str, dict[int, str]] = {}
    for each in chosen:
        if not each.rows or each.template.is_optional or each.template.is_loose:
            continue
        for at, (_, extent) in enumerate(each.template.loops):
            if not each.template.where:
                count = max(numbers[at] for numbers in each.rows) + 1
                equations.setdefault(extent, {}).setdefault(count, next(iter(each.rows.values())))
        for name in each.rows.values():
            shape = names.shapes[name]
            if len(shape) == len(each.template.dims):
                for dim, size in zip(each.template.dims, shape, strict=True):
                    equations.setdefault(dim, {}).setdefault(size, name)
    extents = {extent for each in chosen for _, extent in each.template.loops}
    for extent in extents & set(equations):
        largest = max(equations[extent])
        equations[extent] = {largest: equations[extent][largest]}
    return equations


def _unfilled(each: SeenTemplate, fields: Mapping[str, Any], chosen: Sequence[SeenTemplate]) -> Iterator[str]:
    """Tensors of a template that the file lacks; the absent ones of a template seen nowhere count once a loop."""
    template = each.template
    if may_be_absent(template):
        return
    wanted = None if template.is_loose else _wanted_numbers(template, fields, chosen)
    if wanted is None:
        if not each.rows:
            yield template.pattern
        return
    loop_names = [name for name, _ in template.loops]
    for numbers in wanted:
        if numbers not in each.rows:
            yield template.pattern.format(**dict(zip(loop_names, numbers, strict=True)))


def _wanted_numbers(
    template: Template, fields: Mapping[str, Any], chosen: Sequence[SeenTemplate]
) -> list[tuple[int, ...]] | None:
    try:
        extents = [evaluate(extent, fields) for _, extent in template.loops]
    except AprError:
        return None
    layers: set[int] | None = None
    if template.where:
        layers = _layers(template, fields, extents[0], chosen)
    return [
        numbers for numbers in product(*(range(extent) for extent in extents)) if layers is None or numbers[0] in layers
    ]


def _layers(template: Template, fields: Mapping[str, Any], count: int, chosen: Sequence[SeenTemplate]) -> set[int]:
    """Layers a template belongs to: by its rule when the fields of the rule are known, else where siblings stand."""
    try:
        return {layer for layer in range(count) if place_holds(template.where, {**fields, "layer": layer})}
    except AprError:
        siblings = [each for each in chosen if each.template.where == template.where]
        found = {numbers[0] for each in siblings for numbers in each.rows}
        opposite = _opposite(template.where)
        others = [each for each in chosen if each.template.where == opposite]
        if others:
            found |= set(range(count)) - {numbers[0] for each in others for numbers in each.rows}
        return found


_OPPOSITES = {"<": ">=", ">=": "<", "==": "!=", "!=": "==", "item": "not item", "not item": "item"}
_OPPOSITES |= {"holds": "lacks", "lacks": "holds"}


def _opposite(place: Place) -> Place:
    if len(place) != 1:
        return (("not", "", place),)
    operator, left, right = place[0]
    if operator == "not":
        return tuple(right)
    return ((_OPPOSITES[operator], left, right),)
