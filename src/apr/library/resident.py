"""The tensors of a model that is in memory already, under the names a checkpoint of it would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError
from apr.library.injected import split_adapters
from apr.library.owners import refuse_replicated_layers
from apr.library.wrappers import Unwrapped, parameter_groups, unwrap, unwrapped_names, whole_state
from apr.loading.on_disk import planned_state_dict

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ResidentModel:
    """A model as its owner holds it. tensors: on-disk name to tensor, one name for each group of tied names; views of
    the resident memory wherever gathering and conversion allow. tied: each such group, the kept name first.
    adapter_names: tensors in memory that belong to PEFT adapters and to no base checkpoint.
    """

    unwrapped: Unwrapped
    tensors: Mapping[str, torch.Tensor]
    tied: tuple[tuple[str, ...], ...]
    adapter_names: tuple[str, ...]

    @property
    def module(self) -> torch.nn.Module:
        return self.unwrapped.module

    @property
    def is_zoo_model(self) -> bool:
        """Whether the model is one of transformers' classes, which know their names on disk, config and buffers."""
        from transformers import PreTrainedModel

        return isinstance(self.module, PreTrainedModel)


def read_resident(model: torch.nn.Module) -> ResidentModel:
    """The model inside `model` and all its persistent tensors, adapters and wrappers set apart."""
    unwrapped = unwrap(model)
    refuse_replicated_layers(unwrapped)
    state = whole_state(unwrapped)
    split = split_adapters(unwrapped.module, state)
    base = {plain: state[name] for name, plain in split.base.items()}
    groups = [_plain_names(group, split.base) for group in parameter_groups(unwrapped.module)]
    resident = ResidentModel(unwrapped, base, (), split.adapter)
    if resident.is_zoo_model:
        with _own_conversions(unwrapped, has_adapters=bool(split.adapter)):
            tensors = _on_disk(unwrapped.module, _declared_ties_once(unwrapped, base))
    else:
        aliases = {alias for group in groups for alias in group[1:]}
        tensors = {name: tensor for name, tensor in base.items() if name not in aliases}
    tied = tuple(
        (kept, *(name for name in group if name != kept))
        for group in groups
        if (kept := next((name for name in group if name in tensors), None)) is not None
    )
    if unwrapped.fsdp is not None:
        tied += _missing_from(tensors, base, unwrapped)
    return ResidentModel(unwrapped, tensors, tied, split.adapter)


def _on_disk(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        return planned_state_dict(module, state)
    except RuntimeError as error:
        raise RefusedError(
            f"the tensors of this {type(module).__name__} cannot be told apart as its class saves them",
            expected="memory that is shared only where the class ties tensors",
            found=str(error).strip(),
            remedy="give each of these tensors memory of its own, as `from_pretrained` does",
            invariant="INV-INIT-COVERAGE-001",
        ) from error


def _plain_names(group: tuple[str, ...], base: Mapping[str, str]) -> tuple[str, ...]:
    without_wrappers = unwrapped_names(group).values()
    return tuple(base[name] for name in without_wrappers if name in base)


@contextmanager
def _own_conversions(unwrapped: Unwrapped, *, has_adapters: bool) -> Iterator[None]:
    """Within the block the model has the conversions of its class: loading an adapter into a transformers model
    replaces those of its own load by those of the adapter's (5.23, `PeftAdapterMixin.load_adapter`)."""
    attributes = unwrapped.module.__dict__
    replaced = attributes.pop("_weight_conversions", None) if has_adapters and unwrapped.peft_model is None else None
    try:
        yield
    finally:
        if replaced is not None:
            attributes["_weight_conversions"] = replaced


def _declared_ties_once(unwrapped: Unwrapped, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """FSDP1 gathers a tied parameter once for each of its names: the declared alias goes when its bytes are equal."""
    import torch

    if unwrapped.fsdp is None:
        return state
    aliases = {
        alias
        for alias, kept in _declared_ties(unwrapped.module).items()
        if alias in state and kept in state and torch.equal(state[alias], state[kept])
    }
    return {name: tensor for name, tensor in state.items() if name not in aliases}


def _missing_from(
    tensors: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], unwrapped: Unwrapped
) -> tuple[tuple[str, ...], ...]:
    ties = _declared_ties(unwrapped.module).items()
    return tuple((kept, alias) for alias, kept in ties if alias in state and alias not in tensors and kept in tensors)


def _declared_ties(module: torch.nn.Module) -> Mapping[str, str]:
    """Tied name to the name it shares, as a zoo class declares them for its config."""
    ties = getattr(module, "all_tied_weights_keys", None)
    return ties if isinstance(ties, dict) else {}


def storage_of(tensor: Any) -> int:
    """Identity of the memory that a tensor is a view of, on the meta device too."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.untyped_storage()._cdata)
