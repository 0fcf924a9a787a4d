"""The facts of a config that no tensor shows, pinned when a checkpoint is saved and compared when it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

from apr.errors import shown_value
from apr.identity.rope import is_number
from apr.identity.running_options import CONTEXT_LENGTHS, is_running_option

_OF_THE_FILE = (
    r"^(architectures|model_type|auto_map|transformers_version|_.*|dtype|torch_dtype|tokenizer_class|task_specific_params"
    r"|id2label|label2id|finetuning_task|problem_type|quantization_config|gradient_checkpointing|return_dict"
    r"|is_encoder_decoder|name_or_path|attn_implementation)$"
)


def config_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a Hugging Face config changes the mathematics, in one spelling, as JSON values.

    Rotary settings of either spelling (`rope_theta` with `rope_scaling`, or `rope_parameters`) stand under `rope`.
    Dropout, token ids, file identity and other fields without effect on what the model computes are left out.
    """
    facts = {
        name: value
        for name, value in config.items()
        if not re.match(_OF_THE_FILE, name) and name not in CONTEXT_LENGTHS and not is_running_option(name)
    }
    parameters, theta, scaling = (facts.pop(name, None) for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    rope = (
        dict(parameters) if isinstance(parameters, Mapping) else dict(scaling) if isinstance(scaling, Mapping) else {}
    )
    if theta is not None:
        rope.setdefault("rope_theta", theta)
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    if rope.get("rope_type") in ("default", None):
        rope.pop("rope_type", None)
    if rope:
        facts["rope"] = rope
    return {name: value for name, value in facts.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold the value; infinity and objects of the zoo are not pinned."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def drifted_facts(
    pinned: Mapping[str, Any],
    config: Mapping[str, Any],
    resolved: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, ...]:
    """One line for each pinned fact that the recorded `config`, or else `resolved`, gives another value.

    resolved: the config with its class defaults, under the class's own names; a fact that neither knows has no effect.
    history: stamp changes; a fact that a stamp has set on purpose is not held against its older record, as long as it
    is what the stamp set.
    """
    now = {**config_facts(resolved), **config_facts(config)}
    stamped = _declared(history, {**resolved, **config})
    lines = []
    for name, before in pinned.items():
        if name in now and name not in stamped and not _same(before, now[name]):
            lines.append(
                f"{name} was {shown_value(before)} when the weights were saved and is {shown_value(now[name])} now"
            )
    return tuple(lines)


def _declared(history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> set[str]:
    """The facts that stamps have set, and whose fields still have the value they were given last."""
    latest = {str(change.get("key")): change.get("new") for entry in history for change in _changes(entry)}
    stale = {
        _fact_of(key)
        for key, new in latest.items()
        if (name := key.rpartition(": ")[2]) in config and not _same(new, config[name])
    }
    return {_fact_of(key) for key in latest} - stale


def _changes(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    changes = entry.get("changes")
    return [each for each in changes if isinstance(each, Mapping)] if isinstance(changes, Sequence) else ()


def _fact_of(key: str) -> str:
    name = key.rpartition(": ")[2]
    return "rope" if name in {"rope_theta", "rope_scaling", "rope_parameters"} else name


def _same(one: Any, other: Any) -> bool:
    if is_number(one) and is_number(other):
        return isclose(one, other, rel_tol=1e-6)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(one.get(key), other.get(key)) for key in {*one, *other})
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
