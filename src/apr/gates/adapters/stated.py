"""What an adapter's config says of the adapter: its kind, and by how much LoRA is scaled in each module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apr.formats.peft.read import ADAPTER_CONFIG_NAME
from apr.gates.adapters.facts import Adapter, lora_tensors
from apr.gates.adapters.kinds import EXPECTED, problem_of
from apr.gates.adapters.targets import stated_for
from apr.gates.finding import Finding, Status
from apr.gates.identity_present import ID
from apr.gates.words import folded

# Ways to begin an adapter in which PEFT takes a part out of the base's weights, again each time the adapter is made
# (`init_lora_weights`, PEFT 0.21, `tuners/lora/layer.py`); the start of the word decides.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_SWITCHES = ("use_dora", "use_rslora", "lora_bias")
_SAYS_NO = frozenset({"false", "no", "off", "none", "null", "0"})


def check_config(adapter: Adapter) -> Iterable[Finding]:
    """Whether `adapter_config.json` says how the adapter is applied, in words and numbers that PEFT can take."""
    config = adapter.config
    kind = problem_of(config.get("peft_type"))
    problems = [] if kind is None else [kind]
    undecided: list[str] = []
    if adapter.is_lora:
        scales = _stated_scales(adapter)
        problems += [*_problems(config), *_idle_modules(scales or {})]
        undecided += (
            [] if scales is not None else ["which modules alpha_pattern scales, the config alone does not tell"]
        )
        undecided += _changed_base(config)
    if problems:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{ADAPTER_CONFIG_NAME} does not say how the adapter is applied",
            expected=EXPECTED if kind is not None else "a positive whole r, and a positive lora_alpha for every module",
            found="; ".join(problems),
            remedy="get the config that the adapter was trained with",
        )
        return
    yield Finding(ID, Status.PASS, f"an adapter of kind {config['peft_type']}, no model by itself")
    for said in undecided:
        yield Finding(ID, Status.UNCHECKED, said)


def _stated_scales(adapter: Adapter) -> dict[str, Any] | None:
    """What `alpha_pattern` gives each adapted module; nothing without one, None where the config does not tell."""
    if not adapter.config.get("alpha_pattern"):
        return {}
    modules = {each.module for each in lora_tensors(adapter.checkpoint.tensors)}
    return stated_for(adapter.config, "alpha_pattern", "lora_alpha", modules)


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    rank = config.get("r")
    if not isinstance(rank, int) or not _is_positive(rank):
        yield f"r is {rank!r:.80}, not a positive number" + (" without fraction" if isinstance(rank, float) else "")
    if not _is_positive(config.get("lora_alpha")):
        yield f"lora_alpha is {config.get('lora_alpha')!r:.80}, not a positive number"
    for name in _SWITCHES:
        if isinstance(config.get(name), str) and config[name].strip().lower() in _SAYS_NO:
            yield f"{name} is the text {config[name]!r:.80}, and PEFT takes any text for true"


def _idle_modules(scales: Mapping[str, Any]) -> Iterator[str]:
    """Modules that are scaled by nothing, or by no number."""
    by_value: dict[str, list[str]] = {}
    for module, alpha in scales.items():
        if not _is_positive(alpha):
            by_value.setdefault(f"{alpha!r:.80}", []).append(module)
    for value, names in by_value.items():
        yield f"alpha_pattern gives {value}, not a positive number, to {folded(tuple(sorted(names)))}"


def _changed_base(config: Mapping[str, Any]) -> Iterator[str]:
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_INITS_THAT_CHANGE_THE_BASE):
        yield (
            f"init_lora_weights is {init!r:.80}: PEFT changes the base's weights when it makes the adapter again, and "
            "whether it changes them as it did for the training, no file tells; an adapter that was saved as plain "
            "LoRA (path_initial_model_for_weight_conversion) says true there"
        )


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and (isinstance(value, int) or math.isfinite(value))
