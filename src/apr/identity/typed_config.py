"""A config from the few typed keys of an `.apr` that embeds none: what is typed, what the tensors show, what is
missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from apr.formats.base import Checkpoint
from apr.identity.entries import Entry, own_name
from apr.identity.evidence import model_tensors
from apr.identity.matching import Account, match
from apr.identity.renaming import as_the_class_names_them
from apr.identity.shapes import checked_integer
from apr.identity.types import Origin

EPSILON_FIELD = r"(^|_)(norm|layer_norm|layernorm|rms_norm)_(eps|epsilon)$"
"""The field that upstream's `rms_norm_eps` stands for, whatever the class calls it."""

HEADS_FIELD = r"(^|_)(heads?|head_kv)$"
"""The split of a width into heads: half of it does not prove the other half."""

WITHOUT_EFFECT = (
    r"drop|initializer|init_|_init|^init|_token_id$|^use_cache$|jitter|aux_loss|^output_|z_loss|^summary_|"
    r"^max_window_layers$|^pretraining_tp$|^time_step_(min|max|floor|limit|scale)$|^rescale_|^max_position_embeddings$|"
    r"^chunk_size|^is_decoder$|^context_length$|^classifier_|^use_mambapy$|^use_associative_scan$|^label_smoothing|"
    r"^train_|^router_bias_update|^n_positions$|^max_sequence_length$|^seq_length$|^sliding_window$"
)
"""Fields that do not change what a model computes on a sequence within its context, when it is not training."""


@dataclass
class Draft:
    """A config in the making: values with their origins, facts nobody recorded, facts that contradict each other."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, origin: Origin) -> None:
        self.values[name] = value
        self.origins[name] = origin


def typed_name(entry: Entry, name: str) -> str:
    """The class's own field for a typed key; upstream's `rms_norm_eps` stands for the norm epsilon of any class."""
    own = own_name(entry, name)
    if name == "rms_norm_eps" and own not in entry.defaults:
        return next((field for field in entry.defaults if re.search(EPSILON_FIELD, field)), name)
    return own


def resolve_typed(checkpoint: Checkpoint, entry: Entry) -> Draft:
    """The config of `entry` from typed keys and tensors.

    Dimensions come from typed keys and must agree with the tensors. Head split, norm epsilon, rope base and the
    numeric constants of the class that no tensor shows must be typed, else they are missing. Flags that decide which
    tensors exist follow from the tensors, so does the tie. What the format has no key for (activation, rope scaling,
    switches) takes the class default.
    """
    draft = Draft()
    typed = {typed_name(entry, key): value for key, value in checkpoint.typed.items()}
    for name, value in typed.items():
        if isinstance(entry.defaults.get(name), int) and not isinstance(entry.defaults.get(name), bool):
            checked_integer(name, value)
        if name in entry.defaults or name == "head_dim":
            draft.set(name, value, Origin.TYPED)
    shown, account = _solve(checkpoint, entry, typed, draft)
    for name, value in account.dimensions.items():
        if name not in draft.values and (name in shown.dimensions or not re.search(HEADS_FIELD, name)):
            draft.set(name, value, Origin.TENSORS)
    for name, value in _flags(entry, account, checkpoint):
        draft.set(name, value, Origin.TENSORS)
    _set_rope(draft, entry, typed)
    for name, default in entry.defaults.items():
        if name in draft.values or name == "rope_parameters":
            continue
        if _must_be_recorded(entry, name, default):
            draft.missing.append(name)
        draft.set(name, default, Origin.CLASS_DEFAULT)
    return draft


def _solve(checkpoint: Checkpoint, entry: Entry, typed: Mapping[str, Any], draft: Draft) -> tuple[Account, Account]:
    """The account of the file from tensors alone, and with typed dimensions; contradictions become conflicts."""
    names = as_the_class_names_them(entry, model_tensors(checkpoint))
    shown = match(entry, names)
    integers = {name: value for name, value in typed.items() if isinstance(value, int) and not isinstance(value, bool)}
    for name, value in integers.items():
        if name in shown.dimensions and shown.dimensions[name] != value:
            draft.conflicts.append(f"the metadata says {name} {value}, the tensors show {shown.dimensions[name]}")
    known = {name: value for name, value in integers.items() if name not in shown.dimensions}
    account = match(entry, names, known={**shown.dimensions, **known})
    draft.conflicts += [line for line in account.shape_conflicts if line not in shown.shape_conflicts]
    return shown, account


def _flags(entry: Entry, account: Account, checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Switches that the tensors decide, under the class's own names; a zero-byte head is a tied one."""
    for name, value in account.settings.items():
        if isinstance(value, bool) and "==" not in name and name in entry.defaults:
            yield name, value


def _set_rope(draft: Draft, entry: Entry, typed: Mapping[str, Any]) -> None:
    """Rotary parameters as transformers 5 wants them; only the base is typed, so only the plain kind can be said."""
    if "rope_parameters" not in entry.defaults or entry.rope is None:
        return
    plain = {"rope_type", "rope_theta"}
    if "rope_theta" not in typed or not set(entry.rope) <= plain:
        draft.missing.append("rope_theta" if set(entry.rope) <= plain else "rope_parameters")
        draft.set("rope_parameters", dict(entry.rope), Origin.CLASS_DEFAULT)
        return
    draft.set("rope_parameters", {**entry.rope, "rope_theta": typed["rope_theta"]}, Origin.TYPED)


def _must_be_recorded(entry: Entry, name: str, default: Any) -> bool:
    """Whether a field changes the mathematics, so that a guess would be a silent lie."""
    if name == "sliding_window":
        return default is not None and entry.defaults.get("use_sliding_window") is not False
    if re.search(WITHOUT_EFFECT, name) or isinstance(default, bool):
        return False
    if isinstance(default, int | float):
        return True
    return default is None and name in ("num_key_value_heads",)
