"""Whether a PEFT adapter that is in memory really acts: active, unmerged, scaled as its config says, and seen in the
logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from apr.formats.peft.read import ADAPTER_CONFIG_NAME
from apr.gates.adapters.facts import Adapter
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded, settings
from apr.library.wrappers import Unwrapped, is_instance
from apr.library.zoo_checks import plain_forward

if TYPE_CHECKING:
    import torch

CONFIG_ID = "INV-INIT-CONFIG-001"
RECEIPT_ID = "INV-INIT-RECEIPT-001"
PROBE_ID = "INV-INIT-PROBE-001"

# Fields of `adapter_config.json` that no tensor shows and that change what the adapter computes. `fan_in_fan_out` is
# none of them: PEFT corrects it, in the config too, to what the class of the adapted layer asks for.
_UNSEEN = ("lora_alpha", "use_rslora", "alpha_pattern", "use_dora")


def applied_gates(
    unwrapped: Unwrapped, owner: Any, name: str, adapter: Adapter, is_fresh: bool, probe: bool
) -> tuple[Gate, ...]:
    """Gates on adapter `name` of `owner`; is_fresh: it is meant to change nothing yet."""

    def config(facts: InitFacts) -> Iterable[Finding]:
        return [_config_finding(owner.peft_config[name], adapter.config)]

    def applied(facts: InitFacts) -> Iterable[Finding]:
        return _applied(unwrapped.module, name)

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


def _applied(module: torch.nn.Module, name: str) -> Iterable[Finding]:
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
        elif isinstance(scaling, dict) and scaling[name] == 0:
            problems.setdefault("scaled by 0", []).append(prefix)
    for what, prefixes in problems.items():
        yield Finding(
            RECEIPT_ID,
            Status.REFUSE,
            f"the adapter {name!r} is in memory, and {what} in {len(prefixes)} of {count} modules",
            expected="active, unmerged, scaled away from 0",
            found=folded(tuple(prefixes)),
            remedy=f"model.set_adapter({name!r})",
        )
    if not problems:
        yield Finding(RECEIPT_ID, Status.PASS, f"the adapter {name!r} is active in {count} modules")


def _effect(unwrapped: Unwrapped, owner: Any, name: str, is_fresh: bool) -> Finding:
    """The logits on the default probe tokens with the adapter against those without it."""
    from apr.loading.probe import record_probe

    if unwrapped.peft_model is None or unwrapped.fsdp is not None or not _predicts_tokens(unwrapped.module):
        return _unchecked("the model cannot be run with and without the adapter")
    if not all(layer.active_adapters == [name] for layer in _layers(unwrapped.module)):
        return _unchecked("other adapters are active, or this one is not")
    with plain_forward(unwrapped.module):
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


def _layers(module: torch.nn.Module) -> list[Any]:
    return [each for each in module.modules() if is_instance(each, "peft.tuners.tuners_utils", "BaseTunerLayer")]


def _predicts_tokens(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _unchecked(why: str) -> Finding:
    return Finding(PROBE_ID, Status.UNCHECKED, why)
