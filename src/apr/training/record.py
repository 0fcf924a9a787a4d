"""What a run writes down of itself: `run.json`, and our part of each checkpoint's metadata."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from apr.formats.recorded import TrainingRecord
from apr.training.checkpoints import SavedCheckpoint
from apr.training.devices import UtilisationMeter
from apr.training.metrics import EvaluationMetrics, StepMetrics, perplexity
from apr.training.optimizer import BETAS, CLIP_NORM, EPSILON, WEIGHT_DECAY
from apr.training.prepare import Prepared
from apr.training.versions import library_versions

RUN_SCHEMA = "apr.run/1"


def run_document(prepared: Prepared, step0: EvaluationMetrics, meter: UtilisationMeter) -> dict[str, Any]:
    """`run.json`: everything that decided the run, known before its first step."""
    import torch

    settings, data = prepared.settings, prepared.data
    return {
        "schema": RUN_SCHEMA,
        "options": {each.name: getattr(prepared.options, each.name) for each in dataclasses.fields(prepared.options)},
        "settings": {
            "mode": settings.mode.value,
            "lr_max": settings.schedule.peak,
            "lr_min": settings.schedule.floor,
            "warmup_steps": settings.schedule.warmup_steps,
            "target_val_loss": settings.target_validation_loss,
            "epoch_zero_cap": settings.epoch_zero_cap,
            "steps": settings.steps,
            "steps_per_epoch": settings.steps_per_epoch,
            "batch_size": settings.batch_size,
            "micro_batch_size": settings.micro_batch_size,
            "seq_length": settings.sequence_length,
        },
        "optimizer": {
            "name": "AdamW",
            "betas": BETAS,
            "epsilon": EPSILON,
            "weight_decay": WEIGHT_DECAY,
            "clip_norm": CLIP_NORM,
        },
        "identity": _identity(prepared),
        "config": prepared.config,
        "parent": _parent(prepared),
        "initial_weights_digest": prepared.initial_digest,
        "tokenizer_hash": prepared.tokenizer.output_hash,
        "data": {
            "fingerprint": prepared.dataset_fingerprint,
            "training_windows": len(data.training),
            "validation_windows": len(data.validation),
            "validation_origin": data.validation.origin,
            "validation_set_hash": data.validation.hash,
            "is_split_by_document": data.is_split_by_document,
        },
        "step0": step0.to_json(),
        "device": dataclasses.asdict(prepared.device),
        "dtype": str(prepared.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "gpu_utilisation": "measured" if meter.reason is None else f"null: {meter.reason}",
        "versions": library_versions(),
        "platform": sys.platform,
        "findings": [finding.to_json() for finding in prepared.findings],
    }


def training_record(
    prepared: Prepared,
    steps: Sequence[StepMetrics],
    *,
    epoch: int,
    validation_loss: float | None,
    versions: Mapping[str, str],
) -> TrainingRecord:
    """What a checkpoint says of the run that wrote it. steps: of its epoch; validation_loss: None if not measured."""
    return TrainingRecord(
        step=steps[-1].step,
        epoch=epoch,
        tokens_seen=steps[-1].tokens_seen,
        train_loss=math.fsum(metrics.train_loss for metrics in steps) / len(steps),
        validation_loss=validation_loss,
        validation_set_hash=prepared.data.validation.hash,
        tokenizer_hash=prepared.tokenizer.output_hash,
        dataset_fingerprint=prepared.dataset_fingerprint,
        parent_digest=prepared.initial_digest if prepared.examination is not None else None,
        parent_path=str(prepared.options.init) if prepared.options.init is not None else None,
        seed=prepared.options.seed,
        sequence_length=prepared.settings.sequence_length,
        device=prepared.device.name,
        dtype=str(prepared.model.dtype).removeprefix("torch."),
        versions=versions,
    )


def checkpoint_metadata(
    prepared: Prepared,
    record: TrainingRecord,
    saved: SavedCheckpoint,
    steps: Sequence[StepMetrics],
    optimizer_digest: str,
    wall_s: float,
) -> dict[str, Any]:
    """`epoch-NNN.metadata.json`: upstream's nine fields, then what they lack for an audit of the checkpoint beside."""
    loss = record.validation_loss
    return {
        "epoch": record.epoch,
        "train_loss": record.train_loss,
        "val_loss": loss,
        "train_ppl": None if record.train_loss is None else perplexity(record.train_loss),
        "val_ppl": None if loss is None else perplexity(loss),
        "optimizer_state_sha": optimizer_digest,
        "wall_seconds": wall_s,
        "tokens_seen": record.tokens_seen,
        "grad_norm_max": max(metrics.grad_norm for metrics in steps),
        "step": record.step,
        "parent_digest": record.parent_digest,
        "parent_path": record.parent_path,
        "weights_digest": saved.weights_digest,
        "identity": _identity(prepared),
        "validation_set_hash": record.validation_set_hash,
        "tokenizer_hash": record.tokenizer_hash,
        "dataset_fingerprint": record.dataset_fingerprint,
        "applied_lr": steps[-1].lr,
        "seed": record.seed,
        "seq_length": record.sequence_length,
        "device": record.device,
        "dtype": record.dtype,
        "versions": dict(record.versions),
    }


def _parent(prepared: Prepared) -> dict[str, Any] | None:
    receipt = prepared.examination.facts.receipt if prepared.examination is not None else None
    if receipt is None:
        return None
    place = str(prepared.options.init)
    return {"path": place, "weights_digest": receipt.weights_digest, "receipt": receipt.to_json()}


def _identity(prepared: Prepared) -> dict[str, str]:
    return {
        "hf_architecture": prepared.architecture.class_name,
        "hf_model_type": prepared.architecture.model_type,
    }
