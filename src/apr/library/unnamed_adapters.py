"""Adapters over a model that nobody named: they may be there as long as they change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from apr.gates import receipt
from apr.gates.adapters.facts import PREFIX, lora_tensors, without_partner
from apr.gates.finding import Finding, Status
from apr.library.holding import NO_REASONS
from apr.library.owners import adapter_state, owner_of
from apr.library.refusal import refused
from apr.library.resident import ResidentModel
from apr.library.wrappers import is_instance, unwrapped_names, whole_tensor

if TYPE_CHECKING:
    import torch

_IDENTITIES = (True, "gaussian", "eva", "mica")
"""Values of `init_lora_weights` that begin with a zero half of each pair (PEFT 0.21, `LoraLayer.update_layer`)."""


class Effect(Enum):
    """What an adapter does to the outputs, judged by its tensors. UNKNOWN: of its kind, or its beginning, it cannot be
    told."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


def refuse_unnamed_adapters(
    resident: ResidentModel,
    *,
    is_declared_fresh: bool = False,
    allowed_gates: Mapping[str, str] = NO_REASONS,
) -> None:
    """Refuse adapters over the model that are more than an identity.

    A fresh LoRA is an identity while a half of each pair is zero (`lora_B`, of an embedding `lora_A`) and magnitudes
    are those of the base, a fresh `modules_to_save` while it equals the module it copies; of other kinds it cannot be
    known, so they have to be named or declared fresh. is_declared_fresh: they were; what contradicts it is refused.
    """
    owner = owner_of(resident.unwrapped)
    if owner is None or receipt.ID in allowed_gates:
        return
    effects = {name: effect_of(resident, owner, name) for name in owner.peft_config}
    refusing = {Effect.SOME} if is_declared_fresh else {Effect.SOME, Effect.UNKNOWN}
    active = [name for name, effect in effects.items() if effect in refusing]
    if not active:
        return
    if is_declared_fresh:
        message = f"an adapter that was declared fresh is trained: {', '.join(active)}"
        remedy = "name its directory in place of fresh_adapter=True: adapter=PATH"
    else:
        message = f"an adapter that nobody named changes what the weights compute: {', '.join(active)}"
        remedy = "name its directory: adapter=PATH; or, if it is untrained on purpose: fresh_adapter=True"
    finding = Finding(
        receipt.ID,
        Status.REFUSE,
        message,
        expected="no adapter, a fresh one (zero `lora_B`), or one that is named",
        found=f"{len(resident.adapter_names)} adapter tensors",
        remedy=remedy,
    )
    raise refused("the model holds more than the named weights", [finding])


def effect_of(resident: ResidentModel, owner: Any, name: str) -> Effect:
    """Whether adapter `name` may change an output, judged by its tensors."""
    config = owner.peft_config[name]
    kind = str(getattr(config.peft_type, "value", ""))
    if kind not in {"LORA", "TRAINABLE_TOKENS"}:
        return Effect.UNKNOWN
    state = {
        (key if key.startswith(PREFIX) else PREFIX + key): whole_tensor(value)
        for key, value in adapter_state(owner, name, frozenset()).items()
    }
    effects = [_of_pairs(state, config), *_of_the_rest(resident, state, _token_indices(resident.module, name))]
    return next((each for each in (Effect.SOME, Effect.UNKNOWN) if each in effects), Effect.NONE)


def _of_pairs(state: Mapping[str, torch.Tensor], config: Any) -> Effect:
    """A pair changes something when neither half is zero, unless it began so, as `init_lora_weights` may ask."""
    import torch

    moving = [pair for pair in lora_tensors(state) if bool(torch.count_nonzero(state[pair.name]))]
    if len(without_partner(moving)) == len(moving):
        return Effect.NONE
    return Effect.SOME if getattr(config, "init_lora_weights", True) in _IDENTITIES else Effect.UNKNOWN


def _token_indices(module: torch.nn.Module, name: str) -> dict[str, list[int]]:
    """Embeddings of which adapter `name` trains rows, and which rows."""
    found = {}
    for prefix, layer in module.named_modules():
        if is_instance(layer, "peft.tuners.trainable_tokens.layer", "TrainableTokensLayer"):
            tokens: Any = layer
            if name in tokens.token_indices:
                found[prefix.removesuffix(".token_adapter")] = list(tokens.token_indices[name])
    return {plain: found[prefix] for prefix, plain in unwrapped_names(found).items()}


def _of_the_rest(
    resident: ResidentModel, state: Mapping[str, torch.Tensor], token_indices: Mapping[str, list[int]]
) -> Iterable[Effect]:
    """Magnitudes, biases of `lora_B`, rows of tokens, and tensors of the base that the adapter holds whole."""
    import torch

    aliases = {alias: group[0] for group in resident.tied for alias in group[1:]}
    pairs = {pair.name for pair in lora_tensors(state)}
    for key in state.keys() - pairs:
        plain = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        owner, _, leaf = plain.removesuffix(".weight").rpartition(".")
        owner = owner.removesuffix(".token_adapter")
        copied = resident.tensors.get(aliases.get(plain, plain))
        weight = resident.tensors.get(aliases.get(f"{owner}.weight", f"{owner}.weight"))
        if leaf == "lora_magnitude_vector":
            yield Effect.UNKNOWN if weight is None else _of_magnitudes(state[key], weight)
        elif leaf == "trainable_tokens_delta":
            rows = None if weight is None or owner not in token_indices else weight[token_indices[owner]]
            yield Effect.UNKNOWN if rows is None else _of_copy(state[key], rows)
        elif plain.endswith(".lora_B.bias"):
            yield Effect.SOME if bool(torch.count_nonzero(state[key])) else Effect.NONE
        elif copied is None:
            yield Effect.UNKNOWN
        else:
            yield _of_copy(state[key], copied)


def _of_magnitudes(magnitudes: torch.Tensor, weight: torch.Tensor) -> Effect:
    """DoRA changes nothing while its magnitudes are the norms of the base's rows; of its columns where a class stores
    them the other way round, as GPT-2 and embeddings do. In 16 bits either may have been rounded."""
    import torch

    if not weight.is_floating_point() or weight.dim() < 2:
        return Effect.UNKNOWN
    own = magnitudes.detach().cpu().float().flatten()
    wide = weight.detach().cpu().float()
    tolerance = 1e-5 if {magnitudes.dtype, weight.dtype} <= {torch.float32, torch.float64} else 1e-2
    for stored in (wide, wide.transpose(0, 1)):
        norms = torch.linalg.vector_norm(stored.flatten(1), dim=1)
        if norms.shape == own.shape and torch.allclose(own, norms, rtol=tolerance, atol=0):
            return Effect.NONE
    return Effect.SOME


def _of_copy(tensor: torch.Tensor, copied: torch.Tensor) -> Effect:
    import torch

    one, two = tensor.detach().cpu(), copied.detach().cpu()
    wide = torch.promote_types(one.dtype, two.dtype)
    is_equal = one.shape == two.shape and torch.equal(one.to(wide), two.to(wide))
    return Effect.NONE if is_equal else Effect.SOME
