"""The founding accident, made again on purpose: the same tensors under a false name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apr.demo.size import FALSE_CLASS, FALSE_MODEL_TYPE
from apr.formats.apr2.metadata import CONFIG_KEY, CONFIG_KEYS, GENERATION_CONFIG_KEY
from apr.formats.apr2.write import write_apr2
from apr.formats.base import Checkpoint
from apr.formats.recorded import RECORDED_METADATA_KEY
from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of

# What the founding project's trainer wrote into every checkpoint (`docs/format-apr2.md`, "What the trainer writes"):
# a name, this class whatever the model was, a version and a format; dimensions; no licence, no hf_* stamps.
FOUNDING_KEYS = {
    "name": "model-pretrain",
    "architecture": FALSE_CLASS,
    "version": "0.1.0",
    "format": "entrenar-checkpoint",
}
KEPT_KEYS = (*CONFIG_KEYS, "total_size", "param_count", GENERATION_CONFIG_KEY, RECORDED_METADATA_KEY)


def write_mislabelled(source: Path, output: Path) -> None:
    """Write `output`: the tensors and records of the checkpoint `source`, in the state of the founding file.

    The architecture is stamped falsely, in the metadata and in the config; there is no licence and no tokenizer. What
    the run recorded (loss, probe, digests) is kept, so that a repair can be held against it.
    """
    with open_checkpoint(source) as checkpoint:
        write_apr2(
            output,
            metadata=mislabelled_metadata(checkpoint),
            tensors=[copy_of(entry) for entry in checkpoint.tensors.values()],
        )


def mislabelled_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The metadata of `checkpoint` as the founding accident would have left it."""
    kept = {key: checkpoint.metadata[key] for key in KEPT_KEYS if key in checkpoint.metadata}
    config = {
        **checkpoint.metadata[CONFIG_KEY],
        "architectures": [FALSE_CLASS],
        "model_type": FALSE_MODEL_TYPE,
    }
    return {**FOUNDING_KEYS, **kept, CONFIG_KEY: config}
