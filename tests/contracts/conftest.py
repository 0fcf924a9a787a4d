"""A folder of contract files to write into, and a place with a corpus and mislabelled checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from apr.cli.main import run
from tests.contracts.checkpoints import save
from tests.tiny_models import tiny_model

TEXT_FOLDER = Path(os.__file__).parent / "json"
SEQUENCE_LENGTH = 32


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(document)` puts it into a file named after its contract and gives the path."""

    def to_file(document: dict[str, Any], text: str | None = None) -> Path:
        path = tmp_path / f"{document['contract']}.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(document))
        return path

    return to_file


@pytest.fixture(scope="session")
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
