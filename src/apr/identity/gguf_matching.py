"""A GGUF architecture held against a file's names and shapes.

gguf's lists say which tensors can exist, the loader of llama.cpp which must. In between stand bundles (optional tensors
that come together, in all their layers, or not at all) and kinds of layers (dense or sparse, attending or recurrent),
which show in the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from apr.errors import AprError
from apr.formats.base import Checkpoint, TensorEntry
from apr.identity.entries import Condition, Entry, Place, Template, place_holds
from apr.identity.latest import Latest
from apr.identity.matching import Account, match, opposite
from apr.identity.names import FileNames, Group, Shapes, file_names, find_group

SCALE_SUFFIXES = (".scale", ".input_scale")
"""One number for a quantised tensor, stored beside it (llama.cpp: NVFP4); says nothing about the architecture."""

_LABELS = "num_labels"
"""The one size that is often 1: a classifier with one label, as rerankers have."""

Seen = Sequence[tuple[Template, Group | None]]

_grouped: Latest[Mapping[str, TensorEntry], FileNames] = Latest()


def gguf_names(checkpoint: Checkpoint) -> FileNames:
    """Names and shapes of the tensors that show an architecture: scales of quantised tensors apart."""
    return _grouped.get(checkpoint.tensors, lambda: _grouped_names(checkpoint.tensors))


def _grouped_names(tensors: Mapping[str, TensorEntry]) -> FileNames:
    return file_names({name: entry.shape for name, entry in tensors.items() if not is_scale(name, tensors)})


def is_scale(name: str, tensors: Mapping[str, Any]) -> bool:
    """Whether `name` is the scale of another tensor of the file."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix}" in SCALE_SUFFIXES and f"{stem}.weight" in tensors


def match_gguf(
    entry: Entry,
    names: FileNames,
    known: Mapping[str, int] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Account:
    """The account of `entry`, as `matching.match` gives it, with bundles and kinds of layers as the file shows them."""
    seen = _seen(entry, names)
    return match(_reduced(entry, seen), _with_ranks(seen, names), known, recorded)


def settled_entry(entry: Entry, names: FileNames) -> Entry:
    """`entry` with the bundles and kinds of layers that the file has."""
    return _reduced(entry, _seen(entry, names))


def _seen(entry: Entry, names: FileNames) -> Seen:
    return [(template, find_group(template.pattern, names)) for template in entry.templates]


def _reduced(entry: Entry, seen: Seen) -> Entry:
    bundles = {template.bundle for template, _ in seen} - {None}
    complete = {bundle for bundle in bundles if _is_complete([row for row in seen if row[0].bundle == bundle])}
    wanted = [(each, group) for each, group in seen if each.bundle is None or each.bundle in complete]
    return entry._replace(templates=tuple(_settled(wanted)))


def _is_complete(members: Seen) -> bool:
    """Whether the file has every tensor of a bundle in some layer; of alternatives (fused or split) those of one."""
    by_flags: dict[Condition, bool] = {}
    for template, group in members:
        by_flags[template.when] = by_flags.get(template.when, True) and group is not None
    common = by_flags.pop((), True)
    return common and (any(by_flags.values()) or not by_flags)


def _settled(seen: Seen) -> list[Template]:
    """Templates without the kinds of layers that the file has none of; the opposite kind is then every layer.

    Only what an architecture is named for cannot be absent: one with experts in its later layers, or with recurrent
    layers among the others, has some. Then its tensors are wanted in every layer.
    """
    present = {template.where for template, group in seen if group is not None}
    absent = {template.where for template, _ in seen if _is_open(template.where)} - present
    essential = {place for place in absent if _is_essential(place, present)}
    settled = []
    for template, _ in seen:
        if template.where in essential and template.bundle is None:
            settled.append(template._replace(where=()))
        elif template.where in absent:
            continue
        elif template.where and opposite(template.where) in absent - essential:
            settled.append(template._replace(where=()))
        else:
            settled.append(template)
    return settled


def _is_essential(place: Place, present: Collection[Place]) -> bool:
    return place[0][0] in ("item", ">=") and opposite(place) in present


def _is_open(place: Place) -> bool:
    """Whether the rule needs a field to tell one layer from another."""
    if not place:
        return False
    try:
        place_holds(place, {"layer": 0})
    except AprError:
        return True
    return False


def _with_ranks(seen: Seen, names: FileNames) -> FileNames:
    """`names` with shapes in the rank that templates give them: ggml knows no dimension of 1 in front of the others."""
    changed: dict[str, tuple[int, ...]] = {}
    for template, group in seen:
        if group is None or template.is_loose or template.is_optional:
            continue
        for name in group.rows.values():
            shape = names.shapes[name]
            if len(shape) != len(template.dims) and (fitted := _in_rank(shape, template.dims)) is not None:
                changed.setdefault(name, fitted)
    if not changed:
        return names
    shapes: Shapes = {name: changed.get(name, shape) for name, shape in names.shapes.items()}
    return file_names(shapes, names.placeholders)


def _in_rank(shape: tuple[int, ...], dims: Sequence[str]) -> tuple[int, ...] | None:
    padding = len(shape) - len(dims)
    if padding > 0:
        return shape[padding:] if all(size == 1 for size in shape[:padding]) else None
    return (1,) * -padding + shape if set(dims[:-padding]) <= {_LABELS} else None
