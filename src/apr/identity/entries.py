"""One entry of the atlas: an architecture's on-disk tensors as templates over its config fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from apr.identity.shapes import UnevaluableError, checked_integer, evaluate, fields_of
from apr.identity.types import Architecture, ExpectedTensor, Kind, Naming

ANY_SIZE = "?"
"""A dimension that differs from layer to layer, or that no field gives; only GGUF templates have it."""

MOST_TENSORS = 100_000
"""No checkpoint in circulation holds as many tensors; a config that asks for more is hostile or broken."""

LABELS = "num_labels"
USUAL_LABELS = 2
"""What a config means that names no labels (transformers, `PreTrainedConfig`)."""

Condition = tuple[tuple[tuple[str, Any], ...], ...]
"""Alternatives, each a conjunction of (config field, value); the value `"set"` means any but null. Empty: always."""

Place = tuple[tuple[str, str, Any], ...]
"""Conjunction of (operator, left, right) over the loop variables: `("<", "layer", "first_k_dense_replace")`; `item`
and `holds` look the layer up in a list of the config, `not` denies a whole conjunction."""

_COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "<": lambda left, right: left < right,
    ">=": lambda left, right: left >= right,
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
}


class UndecidedError(UnevaluableError):
    """The config leaves out a list that the config class would make by rules the atlas does not hold."""


class Template(NamedTuple):
    """A family of tensors: `pattern` has one `{name}` for each loop `(name, extent expression)`.

    dims: expressions. when: the condition on config fields under which the tensors exist. where: on which layers.
    tied_to: the tensor whose bytes it shares. is_optional: a buffer that older versions saved; may be absent or present
    in any shape without changing the model.
    is_loose: only the name is known (every number written `#`), neither shape nor extent.
    bundle: optional tensors that come together, in all layers they belong to, or not at all.
    """

    pattern: str
    dims: tuple[str, ...]
    loops: tuple[tuple[str, str], ...] = ()
    when: Condition = ()
    where: Place = ()
    tied_to: str | None = None
    is_optional: bool = False
    is_loose: bool = False
    bundle: str | None = None


class Entry(NamedTuple):
    """One architecture of the atlas.

    is_exact: symbolic evaluation reproduced the real model on random configs. defaults: what the config class gives
    to absent fields. aliases: other spellings of a field. derived: (field, expression) for fields left unset.
    fixed: fields that change the tensors in a way the templates do not express; only their default is known.
    base_prefix: the name of the base model inside the class (`model`, `transformer`), empty for base models.
    rope: the rotary parameters of a config that says nothing of them, None for classes without them.
    positive_sizes: fields in the shapes and extents that the templates know only above 0. nullable: fields whose unset
    state the templates express.
    texts: for fields that hold a word (`feed_forward_proj`), each word that was tried with the one that stands for it.
    labels: how many labels a config means that names none.
    """

    architecture: Architecture
    is_exact: bool
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str]
    derived: tuple[tuple[str, str], ...]
    fixed: tuple[str, ...]
    base_prefix: str
    rope: Mapping[str, Any] | None
    templates: tuple[Template, ...]
    positive_sizes: frozenset[str]
    nullable: frozenset[str]
    texts: Mapping[str, Mapping[str, str]]
    labels: int


def entry_from_json(document: Mapping[str, Any]) -> Entry:
    """The entry as `tools/build_atlas.py` wrote it."""
    templates = tuple(_template_from_json(row) for row in document["tensors"])
    return Entry(
        architecture=Architecture(
            document["class"], document["model_type"], Kind(document["kind"]), Naming(document.get("naming", "hf"))
        ),
        is_exact=document["exact"],
        defaults=document["defaults"],
        aliases=document["aliases"],
        derived=tuple((field, expression) for field, expression in document["derived"]),
        fixed=tuple(document["fixed"]),
        base_prefix=document["base_prefix"],
        rope=document["rope"],
        templates=templates,
        positive_sizes=_positive_sizes(templates),
        nullable=frozenset(
            name for template in templates for terms in template.when for name, value in terms if value is None
        ),
        texts=document.get("texts", {}),
        labels=document.get("labels", USUAL_LABELS),
    )


def _positive_sizes(templates: Iterable[Template]) -> frozenset[str]:
    sizes: set[str] = set()
    switches: set[str] = set()
    for template in templates:
        for expression in {*template.dims, *(extent for _, extent in template.loops)} - {ANY_SIZE}:
            sizes |= fields_of(expression)
        switches |= {name.removesuffix("==0") for terms in template.when for name, _ in terms if name.endswith("==0")}
    return frozenset(sizes - switches)


def _template_from_json(row: list[Any]) -> Template:
    pattern, dims, *rest = row
    extra = rest[0] if rest else {}
    return Template(
        pattern=pattern,
        dims=tuple(dims),
        loops=tuple((name, extent) for name, extent in extra.get("loops", ())),
        when=tuple(tuple((field, value) for field, value in terms) for terms in extra.get("when", ())),
        where=_place_from_json(extra.get("where", ())),
        tied_to=extra.get("tied"),
        is_optional=extra.get("optional", False),
        is_loose=extra.get("loose", False),
        bundle=extra.get("bundle"),
    )


def _place_from_json(rows: Iterable[Any]) -> Place:
    return tuple(
        (operator, left, _place_from_json(right) if operator == "not" else right) for operator, left, right in rows
    )


def is_unset(value: object) -> bool:
    """None, and what some config classes write for it: the word `auto`, a number below zero."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value < 0
    return value is None or value == "auto"


def is_below_one_for_unset(entry: Entry, field: str, value: object) -> bool:
    """Whether `value` leaves a size to its class: where that writes a number below zero for unset (DeBERTa's
    `max_relative_positions`), every number below one is."""
    default = entry.defaults.get(field)
    return isinstance(value, int) and value < 1 and isinstance(default, int) and default < 0


def own_name(entry: Entry, name: str) -> str:
    """The field of the config class that `name` stands for: `hidden_size` is GPT-2's `n_embd`.

    Some classes list a field under the alias (`num_experts`) and save it under the target (`num_local_experts`).
    """
    if name in entry.defaults:
        return name
    target = entry.aliases.get(name, name)
    if target in entry.defaults:
        return target
    return next((alias for alias, own in entry.aliases.items() if own == target and alias in entry.defaults), name)


def resolve_fields(entry: Entry, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields as the config class would hold them: own names, defaults for absent ones, derived ones filled.

    Nested configs are addressed with dots (`text_config.hidden_size`). Raises UnevaluableError when a value that a
    derived field needs cannot be used.
    """
    fields = dict(entry.defaults)
    for key, value in _flattened(config):
        own = own_name(entry, key)
        # Where a list of layers is empty by default, null is how some configs write the empty list.
        fields[own] = [] if value is None and entry.defaults.get(own) == [] else value
    for field in entry.texts:
        fields[field] = common_word(entry, field, fields.get(field))
    for field in entry.positive_sizes:
        if is_below_one_for_unset(entry, field, fields.get(field)):
            fields[field] = entry.defaults[field]
    fields[LABELS] = _label_count(entry, fields)
    for field, expression in entry.derived:
        if is_unset(fields.get(field)):
            fields[field] = evaluate(expression, fields)
    return fields


def common_word(entry: Entry, field: str, value: Any) -> Any:
    """The word that stands for `value` of a text field: `gated-silu` makes the same tensors as `gated-gelu`, a list is
    its words with `|` between them, and null is no word where that is known."""
    words = entry.texts.get(field)
    if words is None:
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = "|".join(value)
    elif value is None and "" in words:
        value = ""
    return words.get(value, value) if isinstance(value, str) else value


def _label_count(entry: Entry, fields: Mapping[str, Any]) -> Any:
    """How many labels a head has: as many as are named, else what is recorded, else the usual count."""
    named = fields.get("id2label")
    if isinstance(named, Mapping):
        return len(named)
    recorded = fields.get(LABELS)
    return entry.labels if recorded is None else recorded


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield prefix + str(key), value
        if isinstance(value, Mapping) and str(key).endswith("config") and prefix.count(".") < 2:
            yield from _flattened(value, f"{prefix}{key}.")


def expand(template: Template, fields: Mapping[str, Any], most_tensors: int) -> Iterator[ExpectedTensor]:
    """The tensors of a template whose condition holds, at most `most_tensors`; UnevaluableError beyond that."""
    extents = [evaluate(extent, fields) for _, extent in template.loops]
    names = [name for name, _ in template.loops]
    ranges: list[Sequence[int]] = [range(extent) for extent in extents]
    counts = [max(extent, 0) for extent in extents]
    if template.where and counts[0] <= most_tensors:
        ranges[0] = [layer for layer in ranges[0] if place_holds(template.where, {**fields, names[0]: layer})]
        counts[0] = len(ranges[0])
    if math.prod(counts) > most_tensors:
        raise UnevaluableError(
            "the config asks for more tensors than the file can explain",
            where=f"config fields of {template.pattern}: " + ", ".join(extent for _, extent in template.loops),
            expected=f"at most {most_tensors} tensors",
            found=" x ".join(str(extent) for extent in extents),
            invariant="FALSIFY-APR-PRETRAIN-INIT-005",
            remedy="correct the config, or fetch an intact copy of the checkpoint",
        )
    varies = any(name in dim for dim in template.dims for name in names)
    shape = None if varies else _shape(template, fields)
    for numbers in product(*ranges):
        placed = dict(zip(names, numbers, strict=True))
        if varies:
            shape = _shape(template, {**fields, **placed})
        tied_to = template.tied_to.format(**placed) if template.tied_to is not None else None
        yield ExpectedTensor(template.pattern.format(**placed), shape or (), tied_to, template.is_optional)


def _shape(template: Template, fields: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(checked_integer(f"shape of {template.pattern}", evaluate(dim, fields)) for dim in template.dims)


def condition_holds(condition: Condition, fields: Mapping[str, Any]) -> bool:
    """Whether the config fields meet one alternative of the condition; true and 1 are told apart from other values."""
    return not condition or any(all(literal_holds(_state_of(f, fields), v) for f, v in terms) for terms in condition)


def _state_of(field: str, fields: Mapping[str, Any]) -> object:
    """The value of a field, or whether two sides are equal (`a==b`); an unset side counts as 0."""
    left, is_equality, right = field.partition("==")
    if not is_equality:
        return fields.get(field)
    other = int(right) if right.isdigit() else fields.get(right)
    return (fields.get(left) or 0) == (other or 0)


def literal_holds(found: object, wanted: object) -> bool:
    """Whether a field's value `found` is what a condition wants: `"set"` is anything but unset, None is unset."""
    if wanted == "set":
        return not is_unset(found)
    if wanted is None:
        return is_unset(found)
    if isinstance(wanted, bool):
        return bool(found) is wanted
    return found == wanted


def place_holds(place: Place, scope: Mapping[str, Any]) -> bool:
    """Whether a layer belongs to a template; `scope` holds the config fields and the loop variables."""
    return all(_comparison_holds(operator, left, right, scope) for operator, left, right in place)


def _comparison_holds(operator: str, left: str, right: Any, scope: Mapping[str, Any]) -> bool:
    if operator in _COMPARISONS:
        return _COMPARISONS[operator](evaluate(left, scope), evaluate(str(right), scope))
    if operator == "not":
        return not place_holds(right, scope)
    items = scope.get(left)
    layer = scope["layer"]
    if is_unset(items):
        raise UndecidedError("a config list that the config class makes by itself is absent", where=left)
    if not isinstance(items, list | tuple):
        raise UnevaluableError("a config field is not a list", where=f"config field {left}", found=repr(items)[:80])
    if operator in ("holds", "lacks"):
        return (layer in items) is (operator == "holds")
    if layer >= len(items):
        raise UnevaluableError(
            "a config list is shorter than the model is deep",
            where=f"config field {left}",
            expected=f"at least {layer + 1} items",
            found=str(len(items)),
        )
    return (items[layer] == right) is (operator == "item")
