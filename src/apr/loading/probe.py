"""The probe: a small fixed token batch, its loss and top logits, recorded at save and replayed at load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apr.errors import DamagedFileError
from apr.formats.recorded import Probe

if TYPE_CHECKING:
    import torch

    from apr.loading.rounding import RoundingNoise

PROBE_LENGTH = 32
"""One row is enough, and a second costs as much again, which is seconds where a CPU has no 16-bit arithmetic."""

PROBE_TOP_LOGITS = 8


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a replay may be from the record: relative for the loss; for logits relative to the largest recorded one.

    Nothing is absolute: a class may scale its logits down to hundredths (Cohere), and a rounding with them.
    """

    loss_relative: float
    logit_relative: float


# Well above what benchmarks/probe_tolerance.py measured over threads, attention kernels and batch layouts
# (docs/probe.md has the figures and what these still catch).
TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(loss_relative=1e-4, logit_relative=3e-5),
    "float16": Tolerance(loss_relative=1e-3, logit_relative=4e-3),
    "bfloat16": Tolerance(loss_relative=5e-3, logit_relative=2e-2),
}


_WORDS_OF_A_MISSING_KERNEL = ("strides should be multiple of 16 bytes", "not implemented for '", "expected scalar type")
"""What torch says where a kernel lacks: grouped products want rows of 16 bytes, a dtype was not thought of."""

NOISE_FACTOR = 1.25
"""In 16 bits two right computations were seen to differ by up to 0.71 of what random rounding shows (docs/probe.md). In
float32 they differ by more, as long sums are rounded too; there the tolerance of the table is far wider than both."""

MOST_NOISE_OF_LOGIT, MOST_NOISE_OF_LOSS = 0.25, 0.05
"""More than these shares of the largest logit and of the loss are never allowed, whatever a model's arithmetic does."""


@dataclass(frozen=True, slots=True)
class ProbeReplay:
    """A recorded probe held against what the loaded model does on the same tokens.

    noise: what rounding alone does to this model, measured where the tolerance of the dtype was not enough.
    """

    recorded: Probe
    loss: float
    loss_difference: float
    largest_logit_difference: float
    tolerance: Tolerance
    noise: RoundingNoise | None = None

    @property
    def agrees(self) -> bool:
        return (
            self.loss_difference <= self.allowed_loss_difference
            and self.largest_logit_difference <= self.allowed_logit_difference
        )

    @property
    def allowed_loss_difference(self) -> float:
        scale = max(abs(self.recorded.loss), 1.0)
        usual = self.tolerance.loss_relative * scale
        if self.noise is None:
            return usual
        return max(usual, min(NOISE_FACTOR * self.noise.loss, MOST_NOISE_OF_LOSS * scale))

    @property
    def allowed_logit_difference(self) -> float:
        largest = max(abs(logit) for row in self.recorded.top_logits for logit in row)
        usual = self.tolerance.logit_relative * largest
        if self.noise is None:
            return usual
        return max(usual, min(NOISE_FACTOR * self.noise.logit, MOST_NOISE_OF_LOGIT * largest))


def default_probe_tokens(vocabulary_size: int, length: int = PROBE_LENGTH) -> tuple[tuple[int, ...], ...]:
    """A fixed row for a vocabulary: a full-period linear congruential walk, the same in every version and place.

    length: of the row, for models with fewer positions than the usual one has tokens.
    """
    state = 2026
    row = []
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        row.append((state >> 33) % vocabulary_size)
    return (tuple(row),)


def record_probe(model: torch.nn.Module, tokens: Sequence[Sequence[int]] | None = None) -> Probe:
    """What `model` does on `tokens` (rows of one length; the default batch when None), without changing its mode."""
    import torch

    is_default = tokens is None
    if tokens is None:
        tokens = default_probe_tokens(_predicted_size(model), _most_positions(model))
    logits, loss = run_tokens(model, tokens)
    if math.isnan(loss) and is_default:
        tokens = default_probe_tokens(logits.shape[-1], len(tokens[0]))
        logits, loss = run_tokens(model, tokens)
    top = torch.topk(logits[:, -1, :], k=min(PROBE_TOP_LOGITS, logits.shape[-1]), dim=-1)
    parameter = next(model.parameters())
    return Probe(
        tokens=tuple(tuple(int(token) for token in row) for row in tokens),
        loss=loss,
        top_ids=tuple(tuple(row) for row in top.indices.tolist()),
        top_logits=tuple(tuple(row) for row in top.values.tolist()),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=parameter.device.type,
    )


def replay_probe(model: torch.nn.Module, recorded: Probe) -> ProbeReplay:
    """Run the recorded tokens again and measure how far loss and the recorded top logits have moved.

    The tolerance is that of the coarser of the two dtypes (recorded, resident), or what rounding in it is seen to do to
    this very model. Raises DamagedFileError when the record names tokens that the model has no embedding for, and when
    the model raises.
    """
    import torch

    largest = max(max(row) for row in (*recorded.tokens, *recorded.top_ids))
    smallest = min(min(row) for row in (*recorded.tokens, *recorded.top_ids))
    size = _vocabulary_size(model)
    if largest >= size or smallest < 0:
        raise DamagedFileError(
            "the recorded probe names tokens outside the vocabulary",
            expected=f"token ids from 0 to {size - 1}",
            found=f"ids from {smallest} to {largest}",
            invariant="INV-INIT-PROBE-001",
        )
    logits, loss = _computed(model, recorded.tokens)
    last = logits[:, -1, :]
    ids = torch.tensor(recorded.top_ids, device=last.device)
    expected = torch.tensor(recorded.top_logits, dtype=last.dtype, device=last.device)
    difference = (last.gather(-1, ids) - expected).abs()
    dtype = _coarsest(recorded.dtype, str(next(model.parameters()).dtype).removeprefix("torch."))
    replay = ProbeReplay(
        recorded=recorded,
        loss=loss,
        loss_difference=_or_infinity(abs(loss - recorded.loss)),
        largest_logit_difference=_or_infinity(float(difference.max())),
        tolerance=TOLERANCES[dtype],
    )
    if replay.agrees:
        return replay
    from apr.loading.rounding import rounding_noise

    return replace(replay, noise=rounding_noise(model, lambda: run_tokens(model, recorded.tokens), ids, dtype))


class NoKernelError(DamagedFileError):
    """The device cannot compute this model in this dtype, which is no fault of the model."""


def check_that_it_runs(model: torch.nn.Module, *, is_causal: bool = False) -> str | None:
    """One short forward pass; DamagedFileError when the model raises, or its logits are not finite, or all alike.

    Names and shapes may all be right and the config still describe a model that cannot compute (a head count that
    does not divide, a rotary width that does not fit, an epsilon of NaN), or answers nothing (a multiplier of 0).
    is_causal: require also that no token is seen before it is predicted. Gives the reason where it could not be tried.
    """
    import torch

    (row,) = default_probe_tokens(_predicted_size(model), _most_positions(model))
    tokens = (row, (*row[:-1], row[-1] - 1 if row[-1] else row[-1] + 1)) if is_causal else (row,)
    try:
        logits, _ = _computed(model, tokens)
    except NoKernelError as error:
        return f"{error.what}, so it was not tried ({error.found})"
    if not bool(torch.isfinite(logits).all()):
        count = int((~torch.isfinite(logits)).sum())
        raise _no_answer(model, tokens, f"{count} of {logits.numel()} logits are not finite")
    if logits.shape[-1] > 1 and bool((logits == logits[..., :1]).all()):
        raise _no_answer(model, tokens, "the same logit for every token of the vocabulary")
    if is_causal:
        _refuse_foresight(model, logits)
    return None


def _refuse_foresight(model: torch.nn.Module, logits: torch.Tensor) -> None:
    """Two rows that differ in their last token alone: what stands before it has to be answered alike.

    logits: (2, positions, vocabulary). Two rows of one batch may be rounded differently, within the tolerance of the
    dtype (on a CPU they are equal to the bit in all classes tried).
    """
    earlier = logits[:, :-1]
    dtype = _coarsest(str(next(model.parameters()).dtype).removeprefix("torch."))
    allowed = TOLERANCES[dtype].logit_relative * float(earlier.abs().max())
    difference = float((earlier[0] - earlier[1]).abs().max())
    if difference > allowed:
        raise DamagedFileError(
            f"{type(model).__name__} sees the token it is to predict: it attends to later positions",
            expected=f"logits that do not depend on later tokens, within {allowed:.2g}",
            found=f"another last token moves the logits before it by {difference:.3g}",
            invariant="INV-INIT-PROBE-001",
            remedy="name a causal language model, or restore the config it was trained with",
        )


def _computed(model: torch.nn.Module, tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, float]:
    """As `run_tokens`; DamagedFileError when the model raises, but for want of memory. NoKernelError, which is one,
    where torch has no kernel for these sizes or this dtype on this device."""
    import torch

    try:
        return run_tokens(model, tokens)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        if any(words in found for words in _WORDS_OF_A_MISSING_KERNEL):
            raise NoKernelError(
                f"{type(model).__name__} cannot be run here in {next(model.parameters()).dtype}",
                found=found,
                invariant="INV-INIT-PROBE-001",
                remedy="load it on another device, or in float32",
            ) from error
        raise _no_answer(model, tokens, found) from error


def _no_answer(model: torch.nn.Module, tokens: Sequence[Sequence[int]], found: str) -> DamagedFileError:
    return DamagedFileError(
        f"{type(model).__name__} does not compute with this config",
        expected=f"finite logits, not all alike, for {len(tokens[0])} tokens",
        found=found,
        invariant="INV-INIT-PROBE-001",
        remedy="restore the config the weights were trained with",
    )


def run_tokens(model: torch.nn.Module, tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, float]:
    """Logits (rows, positions, vocabulary) in float32 and the mean loss of the next tokens, in eval mode;
    modes and random state are afterwards as they were."""
    import torch

    from apr.loading.precision import full_float32
    from apr.loading.untouched import evaluating

    device = next(model.parameters()).device
    batch = torch.tensor([list(row) for row in tokens], dtype=torch.long, device=device)
    with evaluating(model), torch.inference_mode(), full_float32():
        logits = model(input_ids=batch, use_cache=False).logits.float()
    # Some models read more tokens than they predict, and no field of the config says so (Inkling 2).
    wanted = batch[:, 1:].reshape(-1)
    is_predicted = wanted < logits.shape[-1]
    answers = logits[:, :-1].reshape(-1, logits.shape[-1])[is_predicted]
    loss = torch.nn.functional.cross_entropy(answers, wanted[is_predicted]) if bool(is_predicted.any()) else math.nan
    return logits, float(loss)


def _coarsest(*dtypes: str) -> str:
    """Of dtypes the one with the widest tolerance; one that the table does not have counts as bfloat16."""
    known = [dtype if dtype in TOLERANCES else "bfloat16" for dtype in dtypes] or ["float32"]
    return max(known, key=lambda dtype: TOLERANCES[dtype].loss_relative)


def loss_tolerance(*dtypes: str | None) -> float:
    """Relative tolerance between two measurements of one loss by models in these dtypes: that of the coarsest."""
    return TOLERANCES[_coarsest(*(dtype for dtype in dtypes if dtype is not None))].loss_relative


def _vocabulary_size(model: torch.nn.Module) -> int:
    embedding = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _predicted_size(model: torch.nn.Module) -> int:
    """Token ids that are both read and predicted: some models embed more than they predict (CPM-Ant's prompts)."""
    declared = getattr(getattr(model, "config", None), "vocab_size", None)
    embedded = _vocabulary_size(model)
    return min(embedded, declared) if isinstance(declared, int) and declared > 0 else embedded


def _most_positions(model: torch.nn.Module) -> int:
    """Tokens of a row: the usual number, or as many as a model with fewer positions has."""
    config = getattr(model, "config", None)
    known = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return min([PROBE_LENGTH, *(each for each in known if isinstance(each, int) and each > 1)])


def _or_infinity(value: float) -> float:
    return value if value == value else float("inf")
