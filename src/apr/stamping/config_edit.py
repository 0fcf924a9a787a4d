"""Stamping a Hugging Face config, wherever it stands: identity, settings, and fields that become untrue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from apr.errors import UsageError, shell_word
from apr.identity.atlas import load_atlas
from apr.stamping.changes import StampChanges
from apr.stamping.history import Change, change_of

ROPE_OBJECT, ROPE_BASE = "rope_parameters", "rope_theta"

BIAS_SWITCHES: Mapping[str, re.Pattern[str]] = {
    "attention_bias": re.compile(r"attn\.(q|k|v|qkv)_proj\.bias$"),
    "mlp_bias": re.compile(r"mlp\.(gate|up|down)_proj\.bias$"),
}
"""Config fields of the Llama family that say whether tensors exist, and the names of these tensors."""


class ConfigEdit(NamedTuple):
    """A config as it will stand, in the order of its keys, with what changes in it and what the user is told."""

    config: Mapping[str, Any]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def edit_config(
    config: Mapping[str, Any],
    place: str,
    changes: StampChanges,
    settings: Mapping[str, Any],
    tensor_names: Iterable[str],
) -> ConfigEdit:
    """`config` with the identity of `changes` and with `settings`; `place` names it in the history.

    Provenance is set where the config has it. A setting may name a value inside an object of the config
    (`rope_parameters.rope_theta`). Every other field stays, except one that the tensors contradict and that the stamped
    class does not have. Raises UsageError for a name with a point that leads nowhere.
    """
    new = _identity(changes) | {key: value for key, value in changes.provenance.items() if key in config}
    new |= _with_rope_base(config, _with_objects(config, place, settings))
    untrue = _contradicted_fields(config, changes.hf_architecture, tensor_names)
    made = [change_of(place, config, key, value) for key, value in new.items()]
    made += [Change(f"{place}: {field}", config[field], None, is_removed=True) for field in untrue]
    return ConfigEdit(
        config={key: value for key, value in {**config, **new}.items() if key not in untrue},
        changes=tuple(change for change in made if change is not None),
        notes=tuple(
            f"{place}: {field} was removed, since the tensors contradict it and the stamped class has no such field"
            for field in untrue
        ),
    )


def _identity(changes: StampChanges) -> dict[str, Any]:
    identity: dict[str, Any] = {}
    if changes.hf_architecture is not None:
        identity["architectures"] = [changes.hf_architecture]
    if changes.hf_model_type is not None:
        identity["model_type"] = changes.hf_model_type
    return identity


def is_inside(config: Mapping[str, Any], key: str) -> bool:
    """Whether `key` names something inside an object of `config`, as `rope_parameters.rope_theta` does."""
    head, point, _ = key.partition(".")
    return bool(point) and key not in config and isinstance(config.get(head), Mapping)


def _with_objects(config: Mapping[str, Any], place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with whole objects of the config where a name leads into one."""
    placed: dict[str, Any] = {}
    for key, value in settings.items():
        if "." not in key or key in config:
            placed[key] = value
            continue
        head, *path = key.split(".")
        if (head, path) == (ROPE_OBJECT, [ROPE_BASE]) and ROPE_BASE in config:
            placed[ROPE_BASE] = value
        inside = _with_value({**config, **placed}.get(head), path, value)
        if inside is None:
            raise UsageError(
                f"{place} has no object that this name leads into",
                where=f"--set {key}",
                expected="the name of a field, or of a value inside an object that is there",
                found=f"{head}: {type(config[head]).__name__}" if head in config else f"no {head}",
                remedy=f"set the whole object: --set {shell_word(f'{head}={{...}}', is_quoted=True)}",
            )
        placed[head] = inside
    return placed


def _with_value(held: Any, path: Sequence[str], value: Any) -> dict[str, Any] | None:
    """The object `held` with `value` at the end of `path`; None where a step of the path is no object."""
    if not isinstance(held, Mapping) or not all(path):
        return None
    name, *rest = path
    inside = _with_value(held.get(name), rest, value) if rest else value
    return None if rest and inside is None else {**held, name: inside}


def _with_rope_base(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the rope base where the config keeps it: in `rope_parameters` since transformers 5, at the top
    before, in each place that has one, so that the config does not say two things."""
    placed = dict(settings)
    rope = placed.get(ROPE_OBJECT, config.get(ROPE_OBJECT))
    if ROPE_BASE in placed and isinstance(rope, Mapping) and ROPE_BASE in rope:
        placed[ROPE_OBJECT] = {**rope, ROPE_BASE: placed[ROPE_BASE]}
        if ROPE_BASE not in config:
            del placed[ROPE_BASE]
    return placed


def _contradicted_fields(
    config: Mapping[str, Any], class_name: str | None, tensor_names: Iterable[str]
) -> tuple[str, ...]:
    """Fields of another class's config that the tensors contradict.

    A Llama config says `attention_bias: false`; over Qwen2 tensors, which have these biases, that is untrue. Fields
    that the stamped class has are left alone: the gates hold them against the tensors.
    """
    entry = None if class_name is None else load_atlas().find_class(class_name)
    if entry is None:
        return ()
    names = tuple(tensor_names)
    return tuple(
        field
        for field, pattern in BIAS_SWITCHES.items()
        if isinstance(config.get(field), bool)
        and field not in entry.defaults
        and config[field] != any(pattern.search(name) for name in names)
    )
