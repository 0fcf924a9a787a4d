"""Classes H and L once more: matrices whose names, shapes and digests are right, and that hold no weights."""

from __future__ import annotations

import torch

from tests.faults.edits import copied, tensors
from tests.faults.rows import DEEP, VALUES, Fault

ONE = r"layers\.1\.mlp\.down_proj\.weight"
Q, K, V, O = (f"model.layers.1.self_attn.{each}_proj.weight" for each in "qkvo")  # noqa: E741
GATE, UP = (f"model.layers.1.mlp.{each}_proj.weight" for each in ("gate", "up"))


def zeros(start: float, stop: float):
    """Zeros from one part of the elements to another, which is no end of a row."""

    def edit(tensor: torch.Tensor) -> None:
        count = tensor.numel()
        tensor.view(-1)[int(count * start) : int(count * stop)] = 0

    return edit


def _fault(letter: str, name: str, edit, says: str, **options) -> Fault:
    return Fault(letter, name, edit, VALUES, DEEP, says, **options)


VALUE_FAULTS: tuple[Fault, ...] = (
    _fault("H", "98 % of a matrix zero from its start", tensors(ONE, zeros(0, 0.98)), "one long stretch"),
    _fault("H", "98 % of a matrix zero in its middle", tensors(ONE, zeros(0.01, 0.99)), "one long stretch"),
    _fault("H", "a third of a matrix zero in its middle", tensors(ONE, zeros(0.333, 0.677)), "one long stretch"),
    _fault(
        "H",
        "one row everywhere",
        tensors(ONE, lambda tensor: tensor[:1].expand_as(tensor).clone()),
        "the same row everywhere",
    ),
    _fault("H", "a matrix times a million", tensors(ONE, lambda tensor: tensor * 1e6), "no weights have"),
    _fault("H", "a table times a million", tensors("embed_tokens", lambda tensor: tensor * 1e6), "no weights have"),
    _fault("H", "a matrix of nearly nothing", tensors(ONE, lambda tensor: tensor * 1e-20), "no weights have"),
    *(
        _fault("H", f"{second} holds {first}", copied(first, second), "the same block", base="llama", options=options)
        for first, second, options in (
            (K, V, {}),
            (Q, O, {}),
            (Q, K, {"num_key_value_heads": 4}),
            (UP, GATE, {}),
        )
    ),
    _fault(
        "H",
        "an expert of zeros in the middle",
        tensors(r"layers\.1\.mlp\.experts\.down_proj$", lambda tensor: tensor[1].fill_(0).numel() and None),
        "an expert that is zero",
        base="gpt_oss",
    ),
    _fault(
        "L",
        "bf16 bytes labelled fp16",
        tensors(r"_proj\.weight$", lambda tensor: tensor.bfloat16().view(torch.float16)),
        "BF16 numbers read as F16",
    ),
    _fault(
        "L",
        "bf16 bytes labelled fp16, then widened",
        tensors(ONE, lambda tensor: tensor.bfloat16().view(torch.float16).float()),
        "BF16 numbers read as F16",
    ),
    _fault(
        "L",
        "fp16 bytes labelled bf16",
        tensors(r"_proj\.weight$", lambda tensor: tensor.half().view(torch.bfloat16)),
        "F16 numbers read as BF16",
    ),
)
