"""How far rounding alone moves what a model computes: its outputs, every one rounded to a neighbour at random.

Two right computations of one model (another attention kernel, batch layout, number of threads, device) differ as their
roundings do, and how far that carries depends on the model: on its depth, on its weights, on a router whose choice is
close. No table of tolerances knows that; the model at hand does. The method is that of random rounding (Parker, Monte
Carlo Arithmetic, 1997): benchmarks/probe_tolerance.py measures it beside the differences that other kernels make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Explicit bits of the significand (IEEE 754; bfloat16 is the upper half of a float32)."""

RUNS = 3


@dataclass(frozen=True, slots=True)
class RoundingNoise:
    """The largest differences of loss and of the logits asked for, over a few random roundings."""

    loss: float
    logit: float


def rounding_noise(
    model: torch.nn.Module, run: Callable[[], tuple[torch.Tensor, float]], ids: torch.Tensor, dtype: str
) -> RoundingNoise:
    """What random rounding to `dtype`, or to that of a tensor where it is coarser, does to a run of `model`.

    run: gives logits (rows, positions, vocabulary) and the loss. ids: (rows, k), the logits to compare at the last
    position. The model's random state and hooks are as before afterwards.
    """
    logits, loss = run()
    chosen = logits[:, -1, :].gather(-1, ids)
    most_loss = most_logit = 0.0
    for seed in range(RUNS):
        with _rounded_at_random(model, seed, MANTISSA_BITS.get(dtype, MANTISSA_BITS["bfloat16"])):
            other_logits, other_loss = run()
        most_logit = max(most_logit, float((other_logits[:, -1, :].gather(-1, ids) - chosen).abs().max()))
        most_loss = max(most_loss, abs(other_loss - loss))
    return RoundingNoise(most_loss, most_logit)


@contextmanager
def _rounded_at_random(model: torch.nn.Module, seed: int, mantissa_bits: int) -> Iterator[None]:
    """Within the block every module without children gives its floats a step up, a step down, or as they are."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def rounded(value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(rounded(each) for each in value)
        bits = MANTISSA_BITS.get(str(getattr(value, "dtype", None)).removeprefix("torch."))
        return value if bits is None else _moved(value, 1 << max(0, bits - mantissa_bits), generator)

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [leaf.register_forward_hook(lambda _, __, output: rounded(output)) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _moved(values: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
    """`values`, each moved by -1, 0 or 1 times `step` units in its last place; zeros and what would overflow stay."""
    import torch

    integers = {2: torch.int16, 4: torch.int32}[values.element_size()]
    moves = torch.randint(-1, 2, values.shape, generator=generator, dtype=integers).to(values.device) * step
    moved = (values.contiguous().view(integers) + moves).view(values.dtype)
    return torch.where(torch.isfinite(moved) & (values != 0), moved, values)
