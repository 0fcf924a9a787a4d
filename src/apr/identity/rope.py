"""Rotary settings of a recorded config, in the spelling of transformers 4 or 5, or in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose
from types import MappingProxyType
from typing import Any, TypeGuard

from apr.identity.entries import Entry
from apr.identity.typed_config import Draft
from apr.identity.types import Origin

FULL, LOCAL = "full_attention", "sliding_attention"
"""Kinds of layers that have rotary settings of their own in `rope_parameters` (Gemma 3)."""

_KINDS: Mapping[str, str] = MappingProxyType({"su": "longrope", "mrope": "default"})
"""Older names of a kind (transformers 4: Phi-3, Qwen2-VL)."""

_OLDER_SPELLING = ("rope_theta", "rope_local_base_freq", "rope_scaling", "partial_rotary_factor")


def resolve_rope(draft: Draft, entry: Entry, place: str) -> None:
    """One `rope_parameters` object from the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5.

    Where both are recorded they have to say the same, else `draft` gets a conflict.
    """
    if "rope_parameters" not in entry.defaults:
        return
    recorded, theta = draft.values.get("rope_parameters"), draft.values.get("rope_theta")
    scaling = draft.values.get("rope_scaling")
    if isinstance(recorded, Mapping):
        older = {name: draft.values.get(name) for name in _OLDER_SPELLING}
        draft.conflicts += [f"{place} says {line}" for line in _contradictions(recorded, older)]
        return
    if isinstance(scaling, Mapping):
        draft.conflicts += [f"{place} says {line}" for line in _two_kinds("rope_scaling", scaling)]
    if not is_number(theta) or not (scaling is None or isinstance(scaling, Mapping)):
        return
    parameters = {**(scaling or {"rope_type": "default"})}
    parameters.setdefault("rope_theta", theta)
    for name in ("rope_theta", "rope_scaling"):
        draft.values.pop(name, None)
        draft.origins.pop(name, None)
    draft.set("rope_parameters", parameters, Origin.RECORDED)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def agree(one: object, two: object) -> bool:
    """Whether two recorded numbers are the same up to 32-bit rounding; what is no number contradicts nothing."""
    if not (is_number(one) and is_number(two)):
        return True
    return isclose(float(str(one)), float(str(two)), rel_tol=1e-6)


def _contradictions(recorded: Mapping[str, Any], older: Mapping[str, Any]) -> Iterator[str]:
    """What `rope_parameters` and the older fields beside it say of one fact, where they differ."""
    objects = {name: held for name in (FULL, LOCAL) if isinstance(held := recorded.get(name), Mapping)}
    full, where = (objects[FULL], f"rope_parameters.{FULL}") if FULL in objects else (recorded, "rope_parameters")
    pairs = [("rope_theta", full.get("rope_theta"), where)]
    if LOCAL in objects:
        pairs.append(("rope_local_base_freq", objects[LOCAL].get("rope_theta"), f"rope_parameters.{LOCAL}"))
    for name, nested, place in pairs:
        if not agree(older[name], nested):
            yield f"{name} {older[name]} and {place}.rope_theta {nested}"
    if not agree(older["partial_rotary_factor"], full.get("partial_rotary_factor")):
        yield (
            f"partial_rotary_factor {older['partial_rotary_factor']} and {where}.partial_rotary_factor "
            f"{full['partial_rotary_factor']}"
        )
    for place, held in {where: full, **{f"rope_parameters.{name}": each for name, each in objects.items()}}.items():
        yield from _two_kinds(place, held)
    scaling = older["rope_scaling"]
    if isinstance(scaling, Mapping):
        yield from _two_kinds("rope_scaling", scaling)
        then, now = _settings(scaling), _settings(full)
        for name in sorted(then):
            if name not in now or not (
                agree(then[name], now[name]) if is_number(then[name]) else then[name] == now[name]
            ):
                yield f"rope_scaling.{name} {then[name]} and {where}.{name} {now.get(name, 'nothing')}"


def _two_kinds(place: str, held: Mapping[str, Any]) -> Iterator[str]:
    """`type` is what transformers 4 called `rope_type`."""
    older, kind = held.get("type"), held.get("rope_type")
    if older is not None and kind is not None and _kind(older) != _kind(kind):
        yield f"{place}.rope_type {kind} and {place}.type {older}"


def _kind(word: object) -> object:
    return _KINDS.get(word, word) if isinstance(word, str) else word


def _settings(held: Mapping[str, Any]) -> dict[str, Any]:
    """What the object says, `type` under today's name."""
    named = {name: value for name, value in held.items() if name != "type" and value is not None}
    if held.get("type") is not None:
        named.setdefault("rope_type", held["type"])
    return named
