"""Real text (the standard library's own sources), a tokenizer trained on it, shards, and one short run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apr.training.encode_options import EncodeOptions
from apr.training.options import PretrainOptions
from apr.training.result import RunResult
from apr.training.tokenize_encode import encode_corpus
from apr.training.tokenize_train import TokenizerTrainingOptions, train_tokenizer

VOCABULARY = 384
TINY = {
    "hidden_size": "64",
    "num_hidden_layers": "2",
    "num_attention_heads": "4",
    "num_key_value_heads": "2",
    "intermediate_size": "96",
    "max_position_embeddings": "64",
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models run faster, and the same everywhere, on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few modules of the standard library, copied, so that tests may add to them."""
    root = tmp_path_factory.mktemp("corpus") / "tree"
    shutil.copytree(Path(json.__file__).parent, root / "json", ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("colorsys", "bisect", "heapq", "textwrap", "shlex", "sched"):
        __import__(module)
        shutil.copy(Path(json.__file__).parent.parent / f"{module}.py", root)
    return root


@pytest.fixture(scope="session")
def tokenizer(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tokenizer") / "bpe"
    train_tokenizer(TokenizerTrainingOptions(corpora=(source_tree,), output=output, vocabulary_size=VOCABULARY))
    return output


@pytest.fixture(scope="session")
def shards(source_tree: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several shards and a validation side."""
    output = tmp_path_factory.mktemp("shards") / "tokens"
    encode_corpus(
        EncodeOptions(
            corpora=(source_tree,), tokenizer=tokenizer, output=output, shard_tokens=12_000, validation_documents=2
        )
    )
    return output


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    """A copy of `shards` to damage."""
    return Path(shutil.copytree(shards, tmp_path / "tokens"))


def scratch_options(shards: Path, tokenizer: Path, run_directory: Path, /, **changes: object) -> PretrainOptions:
    """A run from scratch of 6 steps in 2 epochs on a tiny Qwen2."""
    values: dict[str, object] = {
        "dataset": shards,
        "tokenizer": tokenizer,
        "run_directory": run_directory,
        "architecture": "Qwen2ForCausalLM",
        "config_changes": TINY,
        "steps": 6,
        "steps_per_epoch": 3,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "batch_size": 4,
        "sequence_length": 32,
        "validation_windows": 8,
        "device": "cpu",
        **changes,
    }
    return PretrainOptions(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def scratch_run(shards: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    from apr.training.run import pretrain

    return pretrain(scratch_options(shards, tokenizer, tmp_path_factory.mktemp("runs") / "scratch"))
