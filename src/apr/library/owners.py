"""Who knows the adapters over a model: their configs, their tensors as PEFT would save them, and which of them act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError
from apr.gates.adapters.facts import PREFIX
from apr.library.wrappers import Unwrapped, is_instance, unwrapped_names

if TYPE_CHECKING:
    import torch


def owner_of(unwrapped: Unwrapped) -> Any | None:
    """Who knows the adapters: the `PeftModel`, or the transformers model that loaded them itself; None without any."""
    if unwrapped.peft_model is not None:
        return unwrapped.peft_model
    return unwrapped.module if getattr(unwrapped.module, "peft_config", None) else None


def adapter_state(owner: Any, name: str, stored: frozenset[str]) -> dict[str, torch.Tensor]:
    """The tensors of adapter `name` as PEFT would save them. stored: names in a file; embeddings that PEFT saves
    whole when the vocabulary grew or when they are adapted are looked up when the file has some."""
    from peft import get_peft_model_state_dict

    state = dict(get_peft_model_state_dict(owner, adapter_name=name, save_embedding_layers=False))
    if stored - state.keys():
        whole = get_peft_model_state_dict(owner, adapter_name=name, save_embedding_layers=True)
        # A transformers model that loaded the adapter itself knows no prefix.
        state.update({key: value for key, value in whole.items() if key in stored or PREFIX + key in stored})
    return {plain: state[key] for key, plain in unwrapped_names(state).items()}


def peft_layers(module: torch.nn.Module) -> list[Any]:
    """The modules that PEFT put into `module`: tuner layers, and wrappers of modules that are trained whole."""
    return [
        each
        for each in module.modules()
        if is_instance(each, "peft.tuners.tuners_utils", "BaseTunerLayer")
        or is_instance(each, "peft.utils.other", "AuxiliaryTrainingWrapper")
    ]


def acting_names(module: torch.nn.Module) -> list[str]:
    """Adapters that take part in a forward pass of `module` somewhere, active or merged, each once."""
    names: dict[str, None] = {}
    for layer in peft_layers(module):
        held = layer._get_available_adapters()
        active = [] if layer.disable_adapters else layer.active_adapters
        names.update(dict.fromkeys(each for each in (*active, *getattr(layer, "merged_adapters", ())) if each in held))
    return list(names)


def refuse_replicated_layers(unwrapped: Unwrapped) -> None:
    """RefusedError when PEFT made more layers out of the base's: several names are one tensor then, and no file holds
    the model as it is."""
    owner = owner_of(unwrapped)
    for name, config in {} if owner is None else owner.peft_config.items():
        if getattr(config, "layer_replication", None):
            raise RefusedError(
                f"the base under the adapter {name!r} cannot be held against a file: layer_replication made other "
                "layers out of it",
                expected="the layers of the base model",
                found=f"layer_replication = {config.layer_replication}",
                remedy="verify the base before the adapter is put over it: apr.verify_loaded(base, PATH); then the "
                "adapter alone: apr.verify_adapter(model, ADAPTER, check_base=False)",
                invariant="INV-INIT-COVERAGE-001",
            )
