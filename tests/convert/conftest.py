"""Honest models of several families with a tokenizer, and the same facts read from any container."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of, tensor_digests
from apr.identity.claim import read_claim
from tests.stamping.conftest import save_tokenizer
from tests.tiny_models import save_tiny

MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "llama-bf16": {"model_type": "llama", "dtype": "bfloat16"},
    "gpt2": {"model_type": "gpt2"},
    "gpt_neox": {"model_type": "gpt_neox"},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved directory for each of MODELS, with tokenizer files and a generation config."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = save_tokenizer(folder / "tokenizer")
    directories = {}
    for name, options in MODELS.items():
        directories[name] = save_tiny(folder / name, **options)
        for file in tokenizer.iterdir():
            shutil.copy(file, directories[name])
    return directories


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


def facts(path: Path) -> dict[str, Any]:
    """Everything a conversion has to keep, read from the checkpoint at `path`."""
    with open_checkpoint(path) as checkpoint:
        return {
            "tensors": {name: (entry.dtype, entry.shape) for name, entry in checkpoint.tensors.items()},
            "digests": tensor_digests(map(copy_of, checkpoint.tensors.values())),
            "architecture": read_claim(checkpoint).architecture,
            "config": dict(checkpoint.config or {}),
            "generation config": dict(checkpoint.generation_config or {}),
            "tokenizer": dict(checkpoint.tokenizer_files()),
        }


def edit_config(directory: Path, **values: Any) -> Path:
    """Set keys of a directory's config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}, indent=2))
    return directory


def copied(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target)
    return target
