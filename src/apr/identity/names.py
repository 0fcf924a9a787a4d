"""A file's tensor names, grouped once by pattern so that many architectures can be held against them quickly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Numbers = tuple[int, ...]

_LONGEST_NUMBER = 7
"""Digits of a layer or expert number; longer ones are no numbers of a model."""


class Group(NamedTuple):
    """Tensors whose names differ only in numbers: numbers to name.

    shape: their common shape, None when they differ. ends: for each number the largest value plus one.
    """

    rows: Mapping[Numbers, str]
    shape: tuple[int, ...] | None
    ends: Numbers

    @property
    def is_full(self) -> bool:
        """Whether every combination of numbers below `ends` is there."""
        count = 1
        for end in self.ends:
            count *= end
        return len(self.rows) == count


class FileNames(NamedTuple):
    """A file's tensors. shapes: those that hold bytes. placeholders: names stored with zero bytes.

    groups: pattern with every number written `#` to its tensors.
    """

    shapes: Shapes
    placeholders: frozenset[str]
    groups: Mapping[str, Group]


def file_names(shapes: Shapes, placeholders: frozenset[str] = frozenset()) -> FileNames:
    """`shapes` grouped for matching; computed once for all architectures."""
    rows: dict[str, dict[Numbers, str]] = {}
    for name in shapes:
        parts = name.split(".")
        template = ["#" if is_number(part) else part for part in parts]
        numbers: Numbers = ()
        if template != parts:
            numbers = tuple([int(part) for part in parts if is_number(part)])
        pattern = ".".join(template) if numbers else name
        rows.setdefault(pattern, {})[numbers] = name
    return FileNames(shapes, placeholders, {pattern: make_group(found, shapes) for pattern, found in rows.items()})


def make_group(rows: dict[Numbers, str], shapes: Shapes) -> Group:
    """The group of `rows` (not empty), with what its shapes have in common."""
    distinct = {shapes[name] for name in rows.values()}
    ends = tuple(max(column) + 1 for column in zip(*rows, strict=True))
    return Group(rows, next(iter(distinct)) if len(distinct) == 1 else None, ends)


@lru_cache(maxsize=4096)
def is_number(part: str) -> bool:
    """Whether a component of a name is a layer or expert number as models write it: no sign, no leading zero."""
    return part.isdigit() and part.isascii() and len(part) <= _LONGEST_NUMBER and (part[0] != "0" or part == "0")


@lru_cache(maxsize=16384)
def pattern_parts(pattern: str) -> tuple[str, tuple[str, ...]]:
    """A template's pattern with every number and placeholder written `#`, and what stood there."""
    parts = pattern.split(".")
    pieces = tuple(part for part in parts if part.isdigit() or part.startswith("{"))
    return ".".join("#" if part.isdigit() or part.startswith("{") else part for part in parts), pieces


def find_group(pattern: str, names: FileNames) -> Group | None:
    """The file's tensors that bear the template name `pattern`, by its loop numbers; None when there are none.

    Numbers that belong to the template's name (`mlp.0`) have to be the same in the file.
    """
    generic, pieces = pattern_parts(pattern)
    group = names.groups.get(generic)
    if group is None or all(piece.startswith("{") for piece in pieces):
        return group
    found = {
        tuple([number for piece, number in zip(pieces, numbers, strict=True) if piece.startswith("{")]): name
        for numbers, name in group.rows.items()
        if all(piece.startswith("{") or int(piece) == number for piece, number in zip(pieces, numbers, strict=True))
    }
    return make_group(found, names.shapes) if found else None
