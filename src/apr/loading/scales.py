"""Scaled 8-bit floating point: which stored tensor is the scale of which weight, and the weight it makes.

Spellings: `X.weight_scale_inv` (DeepSeek-V3, transformers' `FineGrainedFP8Config`; one number for each block of the
weight, and despite its name a factor) and `X.weight_scale` (compressed-tensors, ModelOpt; one number for the tensor or
for each row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from apr.errors import DamagedFileError
from apr.formats.base import Checkpoint, TensorEntry
from apr.formats.dtypes import DType

if TYPE_CHECKING:
    import torch

SCALED_DTYPES = frozenset({DType.F8_E4M3, DType.F8_E5M2})
SCALE_SUFFIXES = ("_scale_inv", "_scale")
PACKED_DTYPES = frozenset({DType.I64, DType.I32, DType.I16, DType.I8, DType.U64, DType.U32, DType.U16, DType.U8})


def paired_scales(tensors: Mapping[str, TensorEntry]) -> Mapping[str, str]:
    """Stored 8-bit weight to its stored scale, where the scale's shape can be one of that weight."""
    pairs = {}
    for name, entry in tensors.items():
        if entry.dtype not in SCALED_DTYPES:
            continue
        for suffix in SCALE_SUFFIXES:
            scale = tensors.get(name + suffix)
            if scale is not None and scale.dtype not in SCALED_DTYPES and block_shape(entry.shape, scale.shape):
                pairs[name] = scale.name
                break
    return MappingProxyType(pairs)


def block_shape(weight: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many elements of each dimension share one number of the scale; None when the shapes do not go together.

    Blocks are square where both dimensions are cut (DeepSeek-V3: 128 x 128), so the last block of a dimension may be
    short.
    """
    count = 1
    for size in scale:
        count *= size
    if count == 1:
        return weight
    if len(scale) == 1 and len(weight) == 2:
        scale = (scale[0], 1)
    if len(scale) != len(weight) or not all(0 < part <= whole for whole, part in zip(weight, scale, strict=True)):
        return None
    blocks = tuple(_block(whole, part) for whole, part in zip(weight, scale, strict=True))
    fits = all(-(-whole // block) == part for whole, block, part in zip(weight, blocks, scale, strict=True))
    return blocks if fits else None


def _block(whole: int, part: int) -> int:
    if part == 1:
        return whole
    even = -(-whole // part)
    # The usual block is a power of two, and the last one short; 576 rows in 5 blocks are blocks of 128, not of 116.
    power = 1 << (even - 1).bit_length()
    return power if -(-whole // power) == part else even


def lacking_scales(checkpoint: Checkpoint) -> tuple[str, ...]:
    """8-bit weights that must have a scale and have none: when others of the file have one, or the config says so."""
    pairs = paired_scales(checkpoint.tensors)
    matrices = [
        name for name, entry in checkpoint.tensors.items() if entry.dtype in SCALED_DTYPES and len(entry.shape) > 1
    ]
    if not pairs and not declares_quantization(checkpoint):
        return ()
    return tuple(name for name in matrices if name not in pairs)


def unscaled_by_choice(checkpoint: Checkpoint) -> tuple[str, ...]:
    """8-bit weights of a file in which nothing speaks of scales; whether they need one, only their values show."""
    if paired_scales(checkpoint.tensors) or declares_quantization(checkpoint):
        return ()
    return tuple(
        name for name, entry in checkpoint.tensors.items() if entry.dtype in SCALED_DTYPES and len(entry.shape) > 1
    )


def packed_weights(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Matrices stored as whole numbers under the name of a weight; raw, they are codes and no values."""
    return tuple(
        name
        for name, entry in checkpoint.tensors.items()
        if entry.dtype in PACKED_DTYPES and len(entry.shape) > 1 and name.endswith("weight")
    )


def declares_quantization(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config or {}
    return isinstance(config.get("quantization_config"), Mapping)


def without_scales(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` as its tensors would be named were they stored unscaled: what identity is read from."""
    scales = set(paired_scales(checkpoint.tensors).values())
    if not scales:
        return checkpoint
    kept = {name: entry for name, entry in checkpoint.tensors.items() if name not in scales}
    return replace(checkpoint, tensors=MappingProxyType(kept))


def apply_scale(weight: torch.Tensor, scale: torch.Tensor, name: str) -> torch.Tensor:
    """`weight` times its scale, block by block, in float32. DamagedFileError when the shapes do not go together."""
    import torch

    blocks = block_shape(tuple(weight.shape), tuple(scale.shape))
    if blocks is None:
        raise DamagedFileError(
            f"the scale of {name} has a shape that does not go with it",
            expected=f"one number, one for each row, or one for each block of {list(weight.shape)}",
            found=f"{list(scale.shape)}",
            invariant="INV-INIT-SHAPE-001",
        )
    factors = scale.to(torch.float32)
    if factors.numel() == 1:
        return weight.to(torch.float32) * factors.reshape(())
    factors = factors.reshape(*factors.shape, *([1] * (weight.dim() - factors.dim())))
    for dimension, block in enumerate(blocks):
        factors = factors.repeat_interleave(block, dim=dimension).narrow(dimension, 0, weight.shape[dimension])
    return weight.to(torch.float32) * factors
