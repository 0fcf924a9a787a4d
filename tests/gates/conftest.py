"""Healthy checkpoints in every container, and ways to break one thing in a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apr.convert.checks import REFUSING_GATES
from apr.convert.importing import import_checkpoint
from tests.tiny_models import save_tiny

CONTAINERS = ("hf", "sharded", "apr")


@dataclass(frozen=True)
class Source:
    """A healthy Hugging Face directory to break, and the container the broken one is handed over in."""

    directory: Path
    container: str
    scratch: Path

    def deliver(
        self,
        *,
        tensors: Callable[[dict[str, np.ndarray]], None] | None = None,
        config: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        """A copy with its tensors and its config edited, as a checkpoint in this source's container."""
        copy = self.scratch / "copy"
        shutil.copytree(self.directory, copy)
        if config is not None:
            document = json.loads((copy / "config.json").read_text())
            config(document)
            (copy / "config.json").write_text(json.dumps(document))
        if tensors is not None:
            state = load_file(copy / "model.safetensors")
            tensors(state)
            save_file(state, copy / "model.safetensors", {"format": "pt"})
        if self.container == "sharded":
            _shard(copy)
        if self.container != "apr":
            return copy
        out = self.scratch / "model.apr"
        import_checkpoint(copy, out, allowed_gates=_ALLOWED)
        return out


# Import refuses lies; a planted lie has to get into the file all the same.
_ALLOWED = dict.fromkeys(sorted(REFUSING_GATES), "a planted defect")


def _shard(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(state)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for index, half in enumerate(halves, start=1):
        file_name = f"model-{index:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in half}, directory / file_name, {"format": "pt"})
        weight_map.update(dict.fromkeys(half, file_name))
    total = sum(array.nbytes for array in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("healthy") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def qwen2_tied(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("healthy") / "qwen2-tied", "qwen2", tie_word_embeddings=True)


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("healthy") / "llama", "llama")


@pytest.fixture(params=CONTAINERS)
def source(request, qwen2, tmp_path) -> Source:
    return Source(qwen2, request.param, tmp_path)


@pytest.fixture(params=CONTAINERS)
def tied_source(request, qwen2_tied, tmp_path) -> Source:
    return Source(qwen2_tied, request.param, tmp_path)
