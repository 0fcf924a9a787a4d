"""Healthy checkpoints whose matrices look like those of `value_faults.py`: pruned, grown, built with equal parts."""

from __future__ import annotations

import torch

from tests.faults.changes import quiet
from tests.faults.checkpoints import Draft
from tests.faults.edits import tensors
from tests.faults.rows import Twin

MATRICES = r"_proj\.weight$"


def pruned(share: float):
    """Single weights at zero, as pruning without a structure leaves them."""
    generator = torch.Generator().manual_seed(5)
    return tensors(MATRICES, lambda tensor: tensor * (torch.rand(tensor.shape, generator=generator) >= share))


def without_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Two of three rows at zero, the three of them scattered."""
    kept = torch.arange(tensor.shape[0]) % 3 == 0
    return tensor * kept[:, None]


def one_head_left(draft: Draft) -> None:
    """Layer 1 with all of its heads pruned but the third."""
    for name in "qkv":
        weight = draft.state[f"model.layers.1.self_attn.{name}_proj.weight"]
        weight[:32] = 0
        weight[48:] = 0


def twice_the_heads(draft: Draft) -> None:
    """Key and value heads shared by groups of queries, written once for each group."""
    for name, tensor in draft.state.items():
        if "k_proj.weight" in name or "v_proj.weight" in name:
            half = tensor[: tensor.shape[0] // 2]
            draft.state[name] = torch.cat([half, half])


def equal_everywhere(first: str, second: str):
    """One projection with the bytes of another, in every layer: an activation of relu squares what comes through."""

    def edit(draft: Draft) -> None:
        for name in [name for name in draft.state if first in name]:
            draft.state[name.replace(first, second)] = draft.state[name].clone()

    return edit


def equal_experts(draft: Draft) -> None:
    """Experts as a dense model grown into a mixture begins with them."""
    for name, tensor in draft.state.items():
        if "mlp.experts." in name and not name.endswith("bias"):
            draft.state[name] = tensor[:1].expand_as(tensor).clone()


def decayed_expert(draft: Draft) -> None:
    """An expert that is never chosen, after weight decay has had it for long."""
    for name, tensor in draft.state.items():
        if ".mlp.experts.1." in name:
            draft.state[name] = tensor * 1e-14


VALUE_TWINS: tuple[Twin, ...] = (
    Twin("H", "half of all weights pruned", quiet(pruned(0.5)), base="llama"),
    Twin("H", "95 of 100 weights pruned", quiet(pruned(0.95)), base="llama"),
    Twin("H", "two of three rows pruned", quiet(tensors(MATRICES, without_rows)), base="llama"),
    Twin("H", "one head left", quiet(one_head_left), base="llama", options={"num_key_value_heads": 4}),
    Twin("H", "shared heads written twice", quiet(twice_the_heads), base="llama"),
    Twin("H", "gate and up equal in every layer", quiet(equal_everywhere("up_proj", "gate_proj")), base="llama"),
    Twin("H", "keys that are the values in every layer", quiet(equal_everywhere("k_proj", "v_proj")), base="llama"),
    Twin("H", "experts that begin equal", quiet(equal_experts), base="gpt_oss"),
    Twin("H", "an expert that decayed", quiet(decayed_expert), base="qwen3_moe"),
    Twin("H", "wide tables", quiet(tensors("embed_tokens", lambda tensor: tensor * 500)), base="llama"),
    Twin(
        "L",
        "matrices of plus and minus one",
        quiet(tensors(MATRICES, lambda tensor: tensor.sign().half().float())),
        base="llama",
    ),
)
