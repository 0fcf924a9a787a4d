"""Every command of `docs/recipes/salvage.md` is run, in order, on small real checkpoints with a false label."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.writing import tensor_from_bytes
from tests.tiny_models import tiny_model

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "salvage.md"
BLOCK = re.compile(r"<!-- exit: (\d+) -->\n```sh\n(.*?)```", re.DOTALL)
TEXT_FOLDER = Path(os.__file__).parent / "json"
SEQUENCE_LENGTH = 32


@dataclass(frozen=True)
class Done:
    """One finished block of the recipe."""

    exit_code: int
    output: str


def blocks() -> list[tuple[int, str]]:
    return [(int(code), text) for code, text in BLOCK.findall(RECIPE.read_text(encoding="utf-8"))]


def sh(script: str, folder: Path) -> Done:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return Done(done.returncode, done.stdout + done.stderr)


def founding_metadata(config: Any) -> dict[str, Any]:
    """What the founding project's trainer wrote: dimensions and constants, and the Llama class for everything."""
    return {
        "name": "model-pretrain",
        "architecture": "LlamaForCausalLM",
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rms_norm_eps": config.rms_norm_eps,
        "hf_config": {
            **{key: value for key, value in config.to_dict().items() if value is not None},
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
        },
    }


def save(model: Any, path: Path) -> None:
    tensors = [
        tensor_from_bytes(name, DType.F32, tuple(value.shape), value.detach().contiguous().numpy())
        for name, value in model.state_dict().items()
    ]
    write_apr2(path, metadata=founding_metadata(model.config), tensors=tensors)


def stored_bytes(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {name: b"".join(entry.stream()) for name, entry in checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the recipe finds it: tokenizer, corpus, and two checkpoints of one short run, both mislabelled."""
    import numpy as np
    import torch

    folder = tmp_path_factory.mktemp("salvage")
    text = ["--corpus", str(TEXT_FOLDER), "--glob", "*.py"]
    assert run(["tokenize", "train", *text, "--vocab-size", "320", "-o", str(folder / "tokenizer")]) == 0
    encode = [*text, "--tokenizer", str(folder / "tokenizer"), "--validation-docs", "1", "--quiet"]
    assert run(["tokenize", "encode-corpus", *encode, "-o", str(folder / "corpus")]) == 0
    ids = np.fromfile(next((folder / "corpus").glob("*.bin")), dtype="<u4").astype("int64")
    rows = torch.from_numpy(ids[: len(ids) // SEQUENCE_LENGTH * SEQUENCE_LENGTH].reshape(-1, SEQUENCE_LENGTH))
    model = tiny_model("qwen2", tie_word_embeddings=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    (folder / "checkpoints").mkdir()
    for epoch in range(2):
        for step in range(20):
            batch = rows[(epoch * 20 + step) * 16 % (len(rows) - 16) :][:16]
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
        save(model, folder / "checkpoints" / f"epoch-{epoch:03d}.apr")
    return folder


def test_the_recipe_works_as_written(workplace: Path) -> None:
    done = []
    for expected, script in blocks():
        done.append(sh(script, workplace))
        assert done[-1].exit_code == expected, f"{script}\n{done[-1].output}"
    table, inspected, refused, stamped, proven, repaired, resumed = (each.output for each in done)
    assert "epoch-000.apr" in table
    assert "epoch-001.apr" in table
    assert "contradiction" in inspected
    for said in ("INV-INIT-ARCH-MATCH-001", "apr stamp", "Qwen2ForCausalLM", "self_attn"):
        assert said in refused
    assert "epoch-001.apr" in stamped
    assert "REFUSED" not in proven
    assert "match" in repaired
    assert "ln(" in resumed
    before, after = (stored_bytes(workplace / name / "epoch-001.apr") for name in ("checkpoints", "repaired"))
    assert before == after


def test_the_stamp_loop_stops_at_a_stranger(workplace: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    save(tiny_model("llama", tie_word_embeddings=False), tmp_path / "checkpoints" / "stranger.apr")
    loop = next(script for _, script in blocks() if "apr stamp" in script)
    done = sh(loop, tmp_path)
    assert done.exit_code == 5
    assert "stranger.apr" in done.output
    assert "INV-STAMP-TRUTH-001" in done.output
    assert not list((tmp_path / "repaired").iterdir())


def test_every_block_of_commands_on_the_page_is_run() -> None:
    assert len(blocks()) == RECIPE.read_text().count("```sh") == 7
