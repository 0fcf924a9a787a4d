"""The weights digest of a model in memory, over its tensors under the names they have on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.on_disk import on_disk_state_dict
from apr.loading.receipt import resident_digests
from apr.loading.torch_dtypes import from_torch_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def model_digest(model: PreTrainedModel) -> str:
    """The weights digest of `model`, as `save_pretrained` would write it."""
    state = on_disk_state_dict(model)
    return state_digest(state, resident_digests(state))


def state_digest(state: Mapping[str, torch.Tensor], digests: Mapping[str, str]) -> str:
    """The weights digest of `state`; digests: of the bytes of each of its tensors."""
    return weights_digest(
        TensorDigest(name, from_torch_dtype(tensor.dtype), tuple(tensor.shape), digests[name])
        for name, tensor in state.items()
    )
