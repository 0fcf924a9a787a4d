"""Take a model out of what training wrapped around it, and read its tensors whole, under unwrapped names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError

if TYPE_CHECKING:
    import torch

# Name components that wrappers of inner modules add; a component `module` may be the model's own, so it is not here.
INNER_WRAPPER_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class Unwrapped:
    """The model inside. outer: what was given, for forward passes. fsdp: the outermost FSDP1 wrapper, whose
    parameters are flat shards. peft_model: the `PeftModel` that was taken off."""

    module: torch.nn.Module
    outer: torch.nn.Module
    fsdp: torch.nn.Module | None
    peft_model: Any | None


def unwrap(model: torch.nn.Module) -> Unwrapped:
    """`model` without DataParallel, DistributedDataParallel, torch.compile, FSDP1 and PEFT around it.

    What those libraries never imported cannot be an instance of theirs, so none is imported here. FSDP2 wraps
    nothing: it replaces parameters by DTensors, which `whole_state` gathers.
    """
    outer, fsdp, peft_model = model, None, None
    while True:
        if is_instance(model, "torch.nn.parallel", "DistributedDataParallel", "DataParallel"):
            model = model.module
        elif is_instance(model, "torch._dynamo.eval_frame", "OptimizedModule"):
            model = model._orig_mod
        elif is_instance(model, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            fsdp = model if fsdp is None else fsdp
            model = model.module
        elif is_instance(model, "peft", "PeftModel", "PeftMixedModel"):
            peft_model = model
            model = model.get_base_model() if hasattr(model, "get_base_model") else model.base_model.model
        else:
            return Unwrapped(model, outer, fsdp, peft_model)


def is_instance(value: object, module_name: str, *class_names: str) -> bool:
    """`isinstance` against classes of a library that is only looked up, never imported."""
    library = sys.modules.get(module_name)
    classes = tuple(getattr(library, name) for name in class_names if hasattr(library, name))
    return bool(classes) and isinstance(value, classes)


def whole_state(unwrapped: Unwrapped) -> dict[str, torch.Tensor]:
    """Every persistent tensor of the inner module, gathered where it is sharded, by its unwrapped name in memory.

    Gathering is collective: with several processes every one of them has to call this. Aliases of one parameter stay
    aliases of one gathered tensor.
    """
    if unwrapped.fsdp is not None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        gathered: Mapping[str, Any] = get_model_state_dict(
            unwrapped.fsdp, options=StateDictOptions(full_state_dict=True)
        )
    else:
        gathered = unwrapped.module.state_dict()
    first = {alias: names[0] for names in parameter_groups(unwrapped.module) for alias in names}
    names = unwrapped_names(name for name, tensor in gathered.items() if hasattr(tensor, "data_ptr"))
    whole: dict[str, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, unwrapped_name in names.items():
        shared = first.get(name, name)
        if shared not in whole:
            whole[shared] = whole_tensor(gathered[name])
        state[unwrapped_name] = whole[shared]
    return state


def whole_tensor(tensor: Any) -> torch.Tensor:
    """`tensor` itself, or all of a DTensor: a view where one process has it, else gathered to the CPU (collective)."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    is_alone = tensor.device_mesh.size() == 1
    whole: torch.Tensor = tensor.to_local() if is_alone else tensor.full_tensor().cpu()
    return whole


def parameter_groups(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """Names in memory that share one parameter or buffer object, for objects with more than one name."""
    by_identity: dict[int, list[str]] = {}
    for named in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            by_identity.setdefault(id(tensor), []).append(name)
    return [tuple(names) for names in by_identity.values() if len(names) > 1]


def unwrapped_names(names: Iterable[str]) -> dict[str, str]:
    """Each name with the parts that wrappers of inner modules added taken out.

    Raises RefusedError when two names become one: the repair would be no bijection.
    """
    taken = {name: ".".join(part for part in name.split(".") if part not in INNER_WRAPPER_PARTS) for name in names}
    if len(set(taken.values())) != len(taken):
        raise RefusedError(
            "two tensors of the model have one name once wrapper parts are taken out of it",
            expected="one name for each tensor",
            found=", ".join(sorted(name for name, other in taken.items() if list(taken.values()).count(other) > 1)[:6]),
            invariant="INV-INIT-COVERAGE-001",
        )
    return taken
