"""A model's tensors under their on-disk names and layouts: what a checkpoint holds and a receipt reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from apr.identity.renaming import current_name

if TYPE_CHECKING:
    import torch


def on_disk_state_dict(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The state dict of `model` as `save_pretrained` would write it: ties once, in-memory conversions reverted.

    Tensors are views of the resident ones wherever the conversion allows. A plain torch module (no zoo class) gives
    its own state dict with shared storages once. state: the tensors by their names in memory, where they are not
    simply `model.state_dict()` (gathered shards, names that a wrapper changed).
    """
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = dict(model.state_dict() if state is None else state)
    if not isinstance(model, PreTrainedModel):
        return _shared_once(state)
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    state = remove_tied_weights_from_state_dict(state, model)
    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, state)
    return reverted


def planned_state_dict(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """As `on_disk_state_dict`, under the names that a plan has: the zoo writes old norms (`LayerNorm.gamma`) for some
    classes, and a plan calls them by today's name."""
    on_disk = on_disk_state_dict(model, state)
    return {current_name(name, on_disk): tensor for name, tensor in on_disk.items()}


def _shared_once(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    once: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() == 0 or place not in seen:
            once[name] = tensor
        seen.add(place)
    return once


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of `tensor` in row-major order; a view where it is contiguous on the CPU, else a copy."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
