"""Biases that matter: the spread that q, k and v biases of the demo's untrained model start with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Standard deviations. A fresh Qwen2 starts its biases at zero, and minutes of training leave them there; pretrained
# Qwen2.5 models carry large ones, in the keys above all, without which they do not work. These stand in for them.
BIAS_SPREADS = {"q_proj.bias": 1.0, "k_proj.bias": 2.0, "v_proj.bias": 0.5}


def spread_biases(model: PreTrainedModel, seed: int) -> int:
    """Draw the q, k and v biases of `model` anew from normal distributions; the number of tensors drawn."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    count = 0
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            for ending, spread in BIAS_SPREADS.items():
                if name.endswith(ending):
                    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
                    count += 1
    return count
