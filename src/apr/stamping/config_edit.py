"""Stamping a Hugging Face config, wherever it stands: identity, settings, and fields that become untrue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from apr.identity.atlas import load_atlas
from apr.stamping.changes import StampChanges
from apr.stamping.history import Change, change_of

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

    Provenance is set where the config has it. Every other field stays, except one that the tensors contradict and
    that the stamped class does not have.
    """
    new = _identity(changes) | {key: value for key, value in changes.provenance.items() if key in config}
    new |= _with_rope_base(config, settings)
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


def _with_rope_base(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the rope base where the config keeps it: in `rope_parameters` since transformers 5, at the top
    before, in each place that has one, so that the config does not say two things."""
    rope = config.get("rope_parameters")
    placed = dict(settings)
    if "rope_theta" in placed and isinstance(rope, Mapping) and "rope_theta" in rope:
        placed["rope_parameters"] = {**rope, "rope_theta": placed["rope_theta"]}
        if "rope_theta" not in config:
            del placed["rope_theta"]
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
