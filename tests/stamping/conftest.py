"""Checkpoints whose stamps lie about their tensors, in every container, and what must be left of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from apr.convert.importing import import_checkpoint
from apr.formats.base import Checkpoint
from apr.formats.recorded import Probe, Recorded, TrainingRecord
from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of, tensor_digests
from apr.loading.tokenizer import tokenizer_output_hash
from apr.stamping.changes import StampChanges
from tests.gguf_models import write_gguf
from tests.quality.founding import write_founding_file
from tests.tiny_models import VOCABULARY, save_tiny

CONTAINERS = ("apr", "apr-typed-only", "hf", "safetensors")
QWEN2 = StampChanges(architecture="qwen2", hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2")
LLAMA = StampChanges(architecture="llama", hf_architecture="LlamaForCausalLM", hf_model_type="llama")
LLAMA_FIELDS = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}


def save_tokenizer(directory: Path, text: str = "## a comment ## import numpy as np\n") -> Path:
    """A small BPE tokenizer, one of whose merges begins with `#`, saved as transformers saves one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator([text] * 50, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def honest_qwen2(tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path) -> Path:
    """A trained-looking Qwen2 directory with tokenizer and our record beside the weights."""
    directory = save_tiny(tmp_path_factory.mktemp("models") / "qwen2", "qwen2")
    for file in tokenizer_directory.iterdir():
        shutil.copy(file, directory)
    files = {file.name: file.read_bytes() for file in tokenizer_directory.iterdir()}
    with open_checkpoint(directory) as checkpoint:
        digests = tensor_digests(map(copy_of, checkpoint.tensors.values()))
    probe = Probe(((1, 2, 3),), 5.5, ((7, 8),), ((1.5, 1.25),), "float32", "cpu")
    training = TrainingRecord(step=100, validation_loss=4.6227, tokenizer_hash=tokenizer_output_hash(files), seed=7)
    recorded = Recorded(training, probe, digests)
    (directory / "apr.json").write_text(json.dumps(recorded.to_json(), indent=2))
    return directory


@pytest.fixture(scope="session")
def honest_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def lying_directory(tmp_path_factory: pytest.TempPathFactory, honest_qwen2: Path) -> Path:
    """The Qwen2 directory with the config a producer writes that takes it for Llama."""
    directory = tmp_path_factory.mktemp("lies") / "llama"
    shutil.copytree(honest_qwen2, directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", **LLAMA_FIELDS}
    path.write_text(json.dumps(config, indent=2))
    return directory


def force_reason(container: str) -> str | None:
    """Why a repair may be written, where the names of the tensors are not held against architectures yet."""
    return "the repair of a planted lie" if container == "gguf" else None


@dataclass(frozen=True)
class Lie:
    """A mislabelled checkpoint at `path`: Qwen2 tensors, stamped Llama."""

    container: str
    path: Path

    @property
    def repair(self) -> StampChanges:
        return QWEN2

    @property
    def force_reason(self) -> str | None:
        return force_reason(self.container)

    def output(self) -> Path:
        """A free path for the stamped copy."""
        return self.path.with_name(f"repaired{self.path.suffix}")


@pytest.fixture(scope="session")
def lies(tmp_path_factory: pytest.TempPathFactory, lying_directory: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("containers")
    import_checkpoint(lying_directory, folder / "full.apr", allowed_gates={"INV-INIT-ARCH-MATCH-001": "planted lie"})
    write_founding_file(folder / "typed.apr")
    stamps = {"format": "pt", "architecture": "llama", "hf_architecture": "LlamaForCausalLM", "note": "kept"}
    save_file(load_file(lying_directory / "model.safetensors"), folder / "lie.safetensors", stamps)
    return {
        "apr": folder / "full.apr",
        "apr-typed-only": folder / "typed.apr",
        "hf": lying_directory,
        "safetensors": folder / "lie.safetensors",
        "gguf": write_gguf(lying_directory, folder / "lie.gguf", "llama", "Q8_0"),
    }


@pytest.fixture
def make_lie(lies: dict[str, Path], tmp_path: Path) -> Callable[[str], Lie]:
    def make(container: str) -> Lie:
        source = lies[container]
        copy = tmp_path / "work" / source.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        return Lie(container, copy)

    return make


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory, honest_qwen2: Path) -> Path:
    """The Qwen2 directory in two shards that carry stamps of their own."""
    directory = tmp_path_factory.mktemp("sharded") / "qwen2"
    shutil.copytree(honest_qwen2, directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        stamps = {"format": "pt", "hf_architecture": "Qwen2ForCausalLM", "license": "MIT"}
        save_file({each: tensors[each] for each in part}, directory / name, stamps)
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


@pytest.fixture(params=CONTAINERS)
def lie(request: pytest.FixtureRequest, make_lie: Callable[[str], Lie]) -> Lie:
    return make_lie(request.param)


def stored_digests(path: Path) -> dict[str, str]:
    """blake3 of every stored tensor by name, read from the file at `path`."""
    with open_checkpoint(path) as checkpoint:
        return tensor_digests(map(copy_of, checkpoint.tensors.values()))


def files_below(path: Path) -> dict[str, bytes]:
    """Every file at or below `path` with its bytes: equal before and after means untouched."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def stamp_values(checkpoint: Checkpoint) -> set[str]:
    return {stamp.value for stamp in checkpoint.stamps}
