"""The evaluation before the first update, of any model that returns a loss, judged by the gate of the road."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apr.formats.base import Checkpoint
from apr.formats.recorded import TrainingRecord
from apr.gates import step0_loss
from apr.gates.facts import InitFacts, Stage, Step0
from apr.gates.finding import Finding, Status
from apr.gates.runner import run_stage
from apr.library.wrappers import unwrap

if TYPE_CHECKING:
    import torch

LossOf = Callable[[Any, Any], Any]
"""(model, batch) to the mean loss of the batch, a tensor of one element."""


@dataclass(frozen=True, slots=True)
class Measured:
    """loss: in nats, mean over the samples of every batch's mean loss, which is how `Trainer` and Lightning report
    `eval_loss` and `val_loss`. samples: how many. set_hash: of the batches' tensors, `blake3:<hex>`."""

    loss: float
    samples: int
    set_hash: str


def measure_loss(model: torch.nn.Module, batches: Iterable[Any], loss_of: LossOf | None = None) -> Measured | None:
    """The loss of `model` on `batches`, in eval mode and without gradients; None when no batch yields a loss.

    A batch is a mapping with `labels` (what a data collator gives) for a transformers model, which then returns its
    loss; any other module needs `loss_of`. With several processes, each holding its own share of the batches, the mean
    is over all of them. Modes of the modules and the random state are afterwards as they were.
    """
    import torch
    from blake3 import blake3

    from apr.loading.untouched import evaluating

    if loss_of is None and not returns_loss(model):
        return None
    device = next(model.parameters()).device
    hasher = blake3(b"apr.step0-set/1\n")
    total, samples = 0.0, 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            batch = _to_device(batch, device)
            loss = _loss(model, batch) if loss_of is None else loss_of(model, batch)
            if loss is None:
                continue
            count = _sample_count(batch)
            total += float(loss) * count
            samples += count
            _hash_batch(hasher, batch)
    total, samples = _over_all_processes(total, samples, device)
    return Measured(total / samples, samples, "blake3:" + hasher.hexdigest()) if samples else None


def returns_loss(model: torch.nn.Module) -> bool:
    """Whether `model` is one of transformers' classes, wrapped or not: given labels they return their loss."""
    from transformers import PreTrainedModel

    return isinstance(unwrap(model).module, PreTrainedModel)


def judge_loss(
    measured: Measured | None,
    *,
    vocabulary_size: int | None,
    expected_loss: float | None,
    tolerance_relative: float,
    note: str = "there is no validation set",
    allowed_gates: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Finding, ...]:
    """What the step-0 gate says of `measured`.

    expected_loss: what the same set is known to give; without it the loss must beat ln(vocabulary). vocabulary_size:
    None for a model that predicts no tokens, which can then only be held against an expected loss.
    """
    if measured is None:
        return (Finding(step0_loss.ID, Status.UNCHECKED, f"no evaluation at step 0 took place: {note}"),)
    if vocabulary_size is None and expected_loss is None:
        message = (
            f"the loss at step 0 is {measured.loss:.6f}; the model predicts no tokens, so there is no floor to beat"
        )
        kind = Status.UNCHECKED if math.isfinite(measured.loss) else Status.REFUSE
        return (Finding(step0_loss.ID, kind, message),)
    step0 = Step0(measured.loss, measured.set_hash, vocabulary_size or 1, tolerance_relative)
    checkpoint = None if expected_loss is None else _recording(expected_loss, measured.set_hash)
    facts = InitFacts(Path(), checkpoint=checkpoint, step0=step0)
    findings = run_stage(Stage.STEP_0, facts, allowed_gates, [step0_loss.GATE])
    return findings if expected_loss is not None else tuple(_in_words_of_the_library(each) for each in findings)


def _in_words_of_the_library(finding: Finding) -> Finding:
    if finding.status is not Status.REFUSE or finding.remedy is None:
        return finding
    return finding._replace(
        remedy="check that tokenizer and data belong to this model; if this set is known to give such a loss: "
        f"expected_loss=LOSS; for an untrained model: allowed_gates={{'{step0_loss.ID}': 'REASON'}}"
    )


def _recording(loss: float, set_hash: str) -> Checkpoint:
    """A record of what the caller says the loss was, for the gate that compares with records."""
    from apr.formats.base import Format
    from apr.formats.recorded import NOTHING_RECORDED

    record = TrainingRecord(validation_loss=loss, validation_set_hash=set_hash)
    recorded = NOTHING_RECORDED._replace(training=record)
    return Checkpoint(Path(), Format.HF_DIRECTORY, (), {}, (), None, None, recorded=recorded)


def predicted_vocabulary(module: torch.nn.Module) -> int | None:
    """Rows of the head of a model that predicts tokens, None for any other model."""
    head = getattr(module, "get_output_embeddings", lambda: None)()
    config = getattr(module, "config", None)
    if head is None or config is None:
        return None
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def _loss(model: torch.nn.Module, batch: Any) -> Any:
    if not isinstance(batch, Mapping) or "labels" not in batch:
        return None
    return getattr(model(**batch), "loss", None)


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_to_device(value, device) for value in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


def _tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, Mapping):
        return [tensor for key in sorted(batch) for tensor in _tensors(batch[key])]
    if isinstance(batch, list | tuple):
        return [tensor for value in batch for tensor in _tensors(value)]
    return [batch] if hasattr(batch, "data_ptr") else []


def _sample_count(batch: Any) -> int:
    tensors = [tensor for tensor in _tensors(batch) if tensor.dim() > 0]
    return int(tensors[0].shape[0]) if tensors else 1


def _hash_batch(hasher: Any, batch: Any) -> None:
    from apr.loading.on_disk import tensor_bytes

    for tensor in _tensors(batch):
        hasher.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor_bytes(tensor))


def _over_all_processes(total: float, samples: int, device: torch.device) -> tuple[float, int]:
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total, samples
    sums = torch.tensor([total, float(samples)], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return float(sums[0]), int(sums[1])
