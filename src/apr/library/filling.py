"""Fill a torch module from a checkpoint by its plan: copied in place, after memory was given to what had none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr.formats.dtypes import DType
from apr.library.holding import Held, read_assigned
from apr.loading.torch_dtypes import from_torch_dtype, to_torch_dtype

if TYPE_CHECKING:
    import torch


def give_memory(module: torch.nn.Module, dtype: DType | None, device: str) -> None:
    """Memory for every parameter and saved buffer on the meta device, in `dtype` where they are floats.

    What the memory holds is undefined until `fill` has run, so the caller plans first and proves afterwards. Aliases
    stay one object. Buffers that no checkpoint holds stay on meta, where the buffer gate finds them.
    """

    made: dict[int, torch.Tensor] = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is None or not tensor.is_meta or name in owner._non_persistent_buffers_set:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _with_memory(tensor, dtype, device)
                table[name] = made[id(tensor)]


def _with_memory(tensor: torch.Tensor, dtype: DType | None, device: str) -> torch.Tensor:
    import torch

    wanted = to_torch_dtype(dtype) if dtype is not None and tensor.is_floating_point() else tensor.dtype
    empty = torch.empty(tensor.shape, dtype=wanted, device=device)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def fill(held: Held) -> None:
    """Copy every assigned tensor into the module, one at a time, cast as the plan declares.

    Parameters stay the same objects, so an optimizer that was built on them goes on working.
    """
    import torch

    checkpoint = held.examination.facts.checkpoint
    assert checkpoint is not None
    with torch.no_grad():
        for assignment in held.plan.assignments:
            target = held.tensors[assignment.model_name]
            tensor, _ = read_assigned(checkpoint, assignment._replace(cast_to=from_torch_dtype(target.dtype)))
            target.copy_(tensor)
