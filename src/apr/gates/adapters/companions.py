"""Tensors that a LoRA adapter has beside its two matrices, each by the setting of the config that makes PEFT use them.

With the setting off, PEFT drops such tensors without a word; with it on and a tensor missing, it computes with a fresh
one. Source: PEFT 0.21, `tuners/lora/layer.py`, `variants.py`, `monteclora.py`, `velora.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from apr.gates.adapters.facts import PREFIX, Adapter, LoraTensor, lora_tensors


class Companion(NamedTuple):
    """setting: the field of the config; tensor: the end of the name, without the adapter's; what: in words.

    of_every: the parts of a pair that never stand without it while the setting is on; none where PEFT may have made
    it only in some modules, or computes the same without it.
    """

    setting: str
    tensor: re.Pattern[str]
    what: str
    of_every: frozenset[str]


_OUTPUTS = frozenset({"lora_B", "lora_embedding_B"})
_LINEAR_OUTPUTS = frozenset({"lora_B"})
_NEVER: frozenset[str] = frozenset()

COMPANIONS = (
    Companion("use_dora", re.compile(r"lora_magnitude_vector(\.default)?(\.weight)?"), "DoRA magnitudes", _OUTPUTS),
    Companion("lora_bias", re.compile(r"lora_B(\.default)?\.bias"), "biases of `lora_B`", _LINEAR_OUTPUTS),
    Companion("kasa_config", re.compile(r"lora_diag(\.default)?"), "singular values of KaSA", _LINEAR_OUTPUTS),
    Companion("velora_config", re.compile(r"lora_velora_embed(\.default)?"), "projections of VeLoRA", _NEVER),
    Companion("monteclora_config", re.compile(r"lora_monteclora_sampler\..+"), "samplers of MonteCLoRA", _NEVER),
    Companion("trainable_token_indices", re.compile(r"trainable_tokens_delta(\.default)?"), "rows of tokens", _NEVER),
)
_FACTORS = ("use_dora", "kasa_config")


class Mismatch(NamedTuple):
    """What config and tensors say differently. found: tensors, or modules that lack theirs (is_missing)."""

    companion: Companion
    found: tuple[str, ...]
    is_missing: bool


def is_companion(name: str) -> bool:
    """Whether `name` is a tensor that stands beside a pair, whatever the config says."""
    return any(_module_of(each, name) is not None for each in COMPANIONS)


def factors(names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that multiply what an adapter does: with zeros, nothing is left of it."""
    chosen = [each for each in COMPANIONS if each.setting in _FACTORS]
    return frozenset(name for name in names if any(_module_of(each, name) is not None for each in chosen))


def mismatches(adapter: Adapter, allowed: Collection[str]) -> Iterator[Mismatch]:
    """Settings and tensors that contradict each other; names in `allowed` are let through."""
    names = adapter.checkpoint.tensors
    pairs = lora_tensors(names)
    for each in COMPANIONS:
        modules = {name: module for name in names if (module := _module_of(each, name)) is not None}
        if not adapter.config.get(each.setting):
            dropped = tuple(sorted(name for name in modules if name not in allowed))
            if dropped:
                yield Mismatch(each, dropped, is_missing=False)
            continue
        promised = {pair.module for pair in pairs if pair.part in each.of_every}
        lacking = tuple(sorted(promised.difference(modules.values())))
        if lacking:
            yield Mismatch(each, lacking, is_missing=True)
        elif each.setting == "trainable_token_indices" and not modules:
            yield Mismatch(each, (), is_missing=True)


def misshaped_magnitudes(adapter: Adapter) -> list[tuple[str, tuple[int, ...], str]]:
    """DoRA magnitudes that are not one for each output of their module: tensor, its shape, what was expected."""
    dora, tensors = COMPANIONS[0], adapter.checkpoint.tensors
    outputs = {pair.module: pair for pair in lora_tensors(tensors) if pair.part == "lora_B"}
    found = []
    for name, entry in tensors.items():
        pair = outputs.get(_module_of(dora, name) or "")
        size = None if pair is None else _first(tensors, pair)
        if size is not None and entry.element_count != size:
            found.append((name, entry.shape, f"{size} magnitudes, as lora_B has outputs"))
    return found


def _first(tensors: Mapping[str, Any], pair: LoraTensor) -> int | None:
    shape = tensors[pair.name].shape
    return shape[0] if shape else None


def _module_of(companion: Companion, name: str) -> str | None:
    """The module whose companion `name` is; None when it is another tensor."""
    match = re.fullmatch(rf"(?P<module>.+?)\.{companion.tensor.pattern}", name)
    return None if match is None else match["module"].removeprefix(PREFIX)
