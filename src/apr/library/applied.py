"""Whether a PEFT adapter that is in memory really acts: active, unmerged, scaled as its config says, and seen in the
logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr.formats.peft.read import ADAPTER_CONFIG_NAME
from apr.gates.adapters.facts import Adapter
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded, settings
from apr.library.owners import peft_layers
from apr.library.wrappers import INNER_WRAPPER_PARTS, Unwrapped, is_instance
from apr.library.zoo_checks import plain_forward

if TYPE_CHECKING:
    import torch

CONFIG_ID = "INV-INIT-CONFIG-001"
RECEIPT_ID = "INV-INIT-RECEIPT-001"
PROBE_ID = "INV-INIT-PROBE-001"

# Fields of `adapter_config.json` that no tensor shows and that change what the adapter computes. `fan_in_fan_out` is
# none of them: PEFT corrects it, in the config too, to what the class of the adapted layer asks for.
_UNSEEN = ("lora_alpha", "use_rslora", "alpha_pattern", "use_dora")

_ALPHA_WORDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
"""The kinds of adapter that PEFT 0.21 scales by alpha over the rank (`update_layer` of their layers)."""

SCALE_TOLERANCE = 1e-6
"""A scale is a Python float, or a float32 tensor where adapters are exchanged in a compiled model."""


def applied_gates(
    unwrapped: Unwrapped,
    owner: Any,
    name: str,
    adapter: Adapter,
    others: tuple[str, ...],
    is_fresh: bool,
    probe: bool,
) -> tuple[Gate, ...]:
    """Gates on adapter `name` of `owner`. others: adapters that act beside it, and may change what it computes.
    is_fresh: it is meant to change nothing yet."""

    def config(facts: InitFacts) -> Iterable[Finding]:
        return [_config_finding(owner.peft_config[name], adapter.config)]

    def applied(facts: InitFacts) -> Iterable[Finding]:
        return [*_applied(unwrapped.module, name, adapter.config), *_alone(name, others)]

    def effect(facts: InitFacts) -> Iterable[Finding]:
        if adapter.config.get("alora_invocation_tokens"):
            return [_unchecked("the adapter acts after its invocation tokens only, which the probe does not hold")]
        return [_effect(unwrapped, owner, name, is_fresh) if probe else _unchecked("the caller left it out")]

    gates = [
        Gate(CONFIG_ID, "the adapter was built with its own config", Stage.RESIDENT, config),
        Gate(RECEIPT_ID, "the adapter is active and unmerged", Stage.RESIDENT, applied),
    ]
    if adapter.is_lora:
        gates.append(Gate(PROBE_ID, "the adapter changes the logits", Stage.RESIDENT, effect))
    return tuple(gates)


def _config_finding(resident: Any, recorded: Mapping[str, Any]) -> Finding:
    differing = [
        name
        for name in _UNSEEN
        if name in recorded and hasattr(resident, name) and getattr(resident, name) != recorded[name]
    ]
    if not differing:
        return Finding(CONFIG_ID, Status.PASS, f"the adapter is scaled as its {ADAPTER_CONFIG_NAME} says")
    return Finding(
        CONFIG_ID,
        Status.REFUSE,
        f"the adapter in memory was built with another config: {', '.join(differing)}",
        expected=settings(differing, recorded),
        found=settings(differing, vars(resident)),
        remedy="load it with PeftModel.from_pretrained, which reads the config beside the weights",
    )


def _applied(module: torch.nn.Module, name: str, config: Mapping[str, Any]) -> Iterable[Finding]:
    problems: dict[str, list[str]] = {}
    count = 0
    for prefix, layer in module.named_modules():
        if not is_instance(layer, "peft.tuners.tuners_utils", "BaseTunerLayer"):
            continue
        tuner: Any = layer
        scaling = getattr(tuner, "scaling", None)
        if isinstance(scaling, dict) and name not in scaling:
            continue
        count += 1
        if name in tuner.merged_adapters:
            problems.setdefault("merged into the base weights", []).append(prefix)
        elif tuner.disable_adapters or name not in tuner.active_adapters:
            problems.setdefault("not active", []).append(prefix)
        elif isinstance(scaling, dict):
            parameter = getattr(tuner, "parameter_name", None)  # Of a layer that adapts a parameter, not a module.
            target = f"{prefix}.{parameter}" if isinstance(parameter, str) else prefix
            scale, stated = float(scaling[name]), _stated_scale(config, target)
            if scale == 0 or (stated is not None and not math.isclose(scale, stated, rel_tol=SCALE_TOLERANCE)):
                by = f"scaled by {scale:.6g}" + ("" if stated is None else f" in place of {stated:.6g}")
                problems.setdefault(by, []).append(prefix)
    for what, prefixes in problems.items():
        yield Finding(
            RECEIPT_ID,
            Status.REFUSE,
            f"the adapter {name!r} is in memory, and {what} in {len(prefixes)} of {count} modules",
            expected=f"active, unmerged, scaled as {ADAPTER_CONFIG_NAME} says",
            found=folded(tuple(prefixes)),
            remedy=f"model.set_adapter({name!r}), or load the adapter again where its scale was changed",
        )
    if not problems:
        yield Finding(RECEIPT_ID, Status.PASS, f"the adapter {name!r} is active in {count} modules")


def _stated_scale(config: Mapping[str, Any], target: str) -> float | None:
    """What the config scales the module or parameter `target` by, as PEFT reads it; None for kinds that scale otherwise
    or not at all."""
    from peft.utils.other import get_pattern_key

    alpha_word = _ALPHA_WORDS.get(str(config.get("peft_type")))
    if alpha_word is None:
        return None
    # PEFT adapts several parameters of one module by layers within layers, all under the name of the module.
    target = ".".join(part for part in target.split(".") if part not in {"base_layer", *INNER_WRAPPER_PARTS})
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    alpha = alphas.get(get_pattern_key(list(alphas), target), config.get(alpha_word))
    rank = ranks.get(get_pattern_key(list(ranks), target), config.get("r"))
    if not isinstance(alpha, int | float) or not isinstance(rank, int | float) or rank <= 0:
        return None
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _alone(name: str, others: tuple[str, ...]) -> Iterable[Finding]:
    if others:
        yield Finding(
            RECEIPT_ID,
            Status.REFUSE,
            f"beside the adapter {name!r} others act that nobody named: {', '.join(others)}",
            expected=f"{name!r} alone, or beside adapters that change nothing",
            found=f"{len(others)} more that are active or merged",
            remedy=f"model.set_adapter({name!r}); to use several at once on purpose: "
            f"allowed_gates={{'{RECEIPT_ID}': 'REASON'}}",
        )


def _effect(unwrapped: Unwrapped, owner: Any, name: str, is_fresh: bool) -> Finding:
    """The logits on the default probe tokens with the adapter against those without it."""
    from apr.loading.probe import record_probe

    if unwrapped.peft_model is None or unwrapped.fsdp is not None or not _predicts_tokens(unwrapped.module):
        return _unchecked("the model cannot be run with and without the adapter")
    if not all(layer.active_adapters == [name] for layer in _layers(unwrapped.module)):
        return _unchecked("other adapters are active, or this one is not")
    with plain_forward(unwrapped.module), _unchanged(unwrapped.module):
        acting = record_probe(owner)
        with owner.disable_adapter():
            idle = record_probe(owner, acting.tokens)
    moved = max(
        abs(one - other)
        for row, other_row in zip(acting.top_logits, idle.top_logits, strict=True)
        for one, other in zip(row, other_row, strict=True)
    )
    if is_fresh or moved > 0 or acting.loss != idle.loss:
        return Finding(PROBE_ID, Status.PASS, f"with the adapter the top logits move by up to {moved:.3g}")
    return Finding(
        PROBE_ID,
        Status.REFUSE,
        "the model computes the same with the adapter as without it",
        expected="other logits on the probe tokens",
        found="equal loss and equal top logits",
        remedy="the adapter does nothing: do not train or serve it as if it did",
    )


@contextmanager
def _unchanged(module: torch.nn.Module) -> Iterator[None]:
    """After the block the same parameters are trainable and the same layers on as before: PEFT makes every adapter
    trainable, and turns every layer on, when it enables them again."""
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    layers = [(layer, layer.disable_adapters) for layer in peft_layers(module)]
    try:
        yield
    finally:
        for layer, was_disabled in layers:
            layer._disable_adapters = was_disabled
        for parameter, was_trainable in trainable:
            parameter.requires_grad_(was_trainable)


def _layers(module: torch.nn.Module) -> list[Any]:
    return [each for each in module.modules() if is_instance(each, "peft.tuners.tuners_utils", "BaseTunerLayer")]


def _predicts_tokens(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _unchecked(why: str) -> Finding:
    return Finding(PROBE_ID, Status.UNCHECKED, why)
