"""Checkpoints of a run: everything a later run needs to start from them and to prove it, checked before they appear."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import InputOutputError, RefusedError
from apr.formats.apr2.metadata import apr2_metadata
from apr.formats.apr2.tokenizer import tokenizer_tensors
from apr.formats.apr2.write import write_apr2
from apr.formats.recorded import Recorded, TrainingRecord
from apr.formats.writing import STAMP_SLACK_BYTES, TensorToWrite
from apr.gates.facts import Written
from apr.gates.road import check_saved
from apr.identity.types import Architecture
from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.on_disk import on_disk_state_dict, tensor_bytes
from apr.loading.pinned import config_facts
from apr.loading.probe import record_probe
from apr.loading.receipt import resident_digests
from apr.loading.torch_dtypes import from_torch_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CheckpointContents:
    """What goes into a checkpoint beside the weights of `model`; the identity is the model's own, never a fallback."""

    model: PreTrainedModel
    architecture: Architecture
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None
    tokenizer_files: Mapping[str, bytes]
    training: TrainingRecord


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint on disk that was reopened and found to be its model."""

    path: Path
    size_bytes: int
    weights_digest: str


def save_checkpoint(path: Path, contents: CheckpointContents) -> SavedCheckpoint:
    """Write `path`, reopen it, hold it against the model, and only then give it its name.

    Raises RefusedError with all findings when the written file is not the model, InputOutputError when the operating
    system refuses; in both cases nothing is left of it and earlier checkpoints are untouched.
    """
    state = on_disk_state_dict(contents.model)
    digests = resident_digests(state)
    leaves = [
        TensorDigest(name, from_torch_dtype(tensor.dtype), tuple(tensor.shape), digests[name])
        for name, tensor in state.items()
    ]
    recorded = Recorded(
        training=contents.training,
        probe=record_probe(contents.model),
        tensor_digests=digests,
        weights_digest=weights_digest(leaves),
        config_facts=config_facts(contents.config),
    )
    tensors = [_to_write(name, tensor) for name, tensor in state.items()]
    metadata = apr2_metadata(
        config=contents.config,
        recorded=recorded,
        tokenizer_files=contents.tokenizer_files,
        generation_config=contents.generation_config,
        name=f"{contents.architecture.model_type}-pretrain",
        parameter_count=sum(tensor.numel() for tensor in state.values()),
        total_size_bytes=sum(tensor.size_bytes for tensor in tensors),
    )
    unchecked = path.with_name(f".{path.name}.unchecked")
    try:
        written = write_apr2(
            unchecked,
            metadata=metadata,
            tensors=[*tensors, *tokenizer_tensors(contents.tokenizer_files)],
            metadata_slack_bytes=STAMP_SLACK_BYTES,
        )
        _check(unchecked, path, contents, digests)
        _publish(unchecked, path)
    finally:
        unchecked.unlink(missing_ok=True)
    return SavedCheckpoint(path, written.size_bytes, recorded.weights_digest or "")


def _to_write(name: str, tensor: torch.Tensor) -> TensorToWrite:
    return TensorToWrite(
        name, from_torch_dtype(tensor.dtype), tuple(tensor.shape), chunks=lambda: (tensor_bytes(tensor),)
    )


def _check(unchecked: Path, path: Path, contents: CheckpointContents, digests: Mapping[str, str]) -> None:
    examination = check_saved(unchecked, Written(contents.architecture, contents.config, digests))
    if not examination.is_accepted:
        refusals = examination.refusals
        raise RefusedError(
            "the checkpoint that was just written is not the model, and was removed",
            where=str(path),
            invariant=refusals[0].id,
            findings=tuple(finding.to_json() for finding in refusals),
            remedy="check the disk and its free space; earlier checkpoints of the run are untouched",
        )


def _publish(unchecked: Path, path: Path) -> None:
    try:
        os.replace(unchecked, path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputOutputError(f"cannot write the checkpoint: {error.strerror}", where=str(path)) from error
