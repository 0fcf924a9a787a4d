"""Healthy checkpoints in memory, and how a broken one is written into each container without passing any check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from apr.formats.apr2.metadata import apr2_metadata
from apr.formats.apr2.write import write_apr2
from apr.formats.recorded import Probe, Recorded
from apr.formats.writing import TensorToWrite
from apr.loading.on_disk import on_disk_state_dict, tensor_bytes
from apr.loading.pinned import config_facts
from apr.loading.probe import record_probe
from apr.loading.torch_dtypes import from_torch_dtype
from tests.tiny_models import trained_model

HF, SHARDED, SAFETENSORS, APR = "hf", "sharded", "safetensors", "apr"
CONTAINERS = (HF, SHARDED, SAFETENSORS, APR)

LAYERS = 4


@dataclass
class Draft:
    """A checkpoint before it is written. config: None for a file that records none. after: edits of what was written.

    on_load: what happens to the model behind the loader's back. tokenizer: files of the tokenizer the run would use.
    """

    state: dict[str, torch.Tensor]
    config: dict[str, Any]
    recorded: Recorded
    after: list[Callable[[Path], None]] = field(default_factory=list)
    on_load: Callable[[Any], None] | None = None
    tokenizer: dict[str, bytes] | None = None
    tokenizer_files: dict[str, bytes] = field(default_factory=dict)


@cache
def _healthy(model_type: str, overrides: str) -> tuple[dict[str, torch.Tensor], str, Probe]:
    layers = {"n_layer": LAYERS} if model_type == "gpt2" else {"num_hidden_layers": LAYERS}
    model = trained_model(model_type, **{**layers, **json.loads(overrides)})
    state = {name: tensor.detach().clone() for name, tensor in on_disk_state_dict(model).items()}
    model.config.architectures = [type(model).__name__]
    config = json.dumps(
        json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}
    )
    return state, config, record_probe(model)


def healthy(model_type: str, **overrides: Any) -> Draft:
    """A copy of the trained tiny `model_type`, with its probe and the facts of its config recorded."""
    state, config_text, probe = _healthy(model_type, json.dumps(overrides, sort_keys=True))
    config = json.loads(config_text)
    recorded = Recorded(probe=probe, config_facts=config_facts(config))
    return Draft({name: tensor.clone() for name, tensor in state.items()}, config, recorded)


def write(draft: Draft, container: str, scratch: Path) -> Path:
    """`draft` in `container` under `scratch`, edited afterwards as it asks."""
    path = _WRITERS[container](draft, scratch)
    for edit in draft.after:
        edit(path)
    return path


def _directory(draft: Draft, scratch: Path) -> Path:
    path = scratch / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(draft.config))
    (path / "apr.json").write_text(json.dumps(draft.recorded.to_json()))
    for name, content in draft.tokenizer_files.items():
        (path / name).write_bytes(content)
    return path


def _whole(draft: Draft, scratch: Path) -> Path:
    path = _directory(draft, scratch)
    save_file(_contiguous(draft.state), path / "model.safetensors", {"format": "pt"})
    return path


def _shards(draft: Draft, scratch: Path) -> Path:
    path = _directory(draft, scratch)
    names = sorted(draft.state)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file_name = f"model-{number:05d}-of-00002.safetensors"
        save_file(_contiguous({name: draft.state[name] for name in part}), path / file_name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(tensor.nbytes for tensor in draft.state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def _file(draft: Draft, scratch: Path) -> Path:
    path = scratch / "model.safetensors"
    stamps = {}
    if draft.config.get("architectures"):
        stamps["hf_architecture"] = str(draft.config["architectures"][0])
    if draft.config.get("model_type"):
        stamps["hf_model_type"] = str(draft.config["model_type"])
    save_file(_contiguous(draft.state), path, {"format": "pt", **stamps})
    return path


def _apr(draft: Draft, scratch: Path) -> Path:
    path = scratch / "model.apr"
    tensors = [
        TensorToWrite(
            name, from_torch_dtype(tensor.dtype), tuple(tensor.shape), lambda tensor=tensor: (tensor_bytes(tensor),)
        )
        for name, tensor in draft.state.items()
    ]
    metadata = apr2_metadata(config=draft.config, recorded=draft.recorded, tokenizer_files=draft.tokenizer_files)
    write_apr2(path, metadata=metadata, tensors=tensors)
    return path


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


_WRITERS: dict[str, Callable[[Draft, Path], Path]] = {HF: _whole, SHARDED: _shards, SAFETENSORS: _file, APR: _apr}
