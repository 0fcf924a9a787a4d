"""Small saved models for the library: one that is random, one that has learnt its validation set, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apr.errors import RefusedError
from apr.loading.quiet import quiet_zoo
from tests.adapters import save_adapter
from tests.tiny_models import save_tiny, tiny_model

ROWS, LENGTH = 16, 16


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with quiet_zoo():
        yield


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with biases, untied."""
    return save_tiny(tmp_path_factory.mktemp("library") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def tied_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("library") / "tied", "qwen2", dtype="bfloat16", tie_word_embeddings=True)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """A data set of a few ids, easily learnt."""
    import torch

    ids = torch.randint(0, 20, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


@pytest.fixture(scope="session")
def batches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in batches of eight, as `Trainer` collates them for evaluation."""
    import torch

    return [
        {key: torch.stack([row[key] for row in rows[start : start + 8]]) for key in ("input_ids", "labels")}
        for start in range(0, ROWS, 8)
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, batches: list[dict[str, Any]]) -> Path:
    """A Qwen2 whose loss on the batches is well below a uniform guess."""
    import torch

    model = tiny_model("qwen2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(8):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    directory = tmp_path_factory.mktemp("library") / "trained"
    with quiet_zoo():
        model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def recorded_loss(trained: Path, batches: list[dict[str, Any]]) -> float:
    """The loss of the trained model on the batches, computed without the library."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_zoo(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(trained).eval()
        return sum(float(model(**batch).loss) for batch in batches) / len(batches)


@contextmanager
def process_group_of_one(backend: str, directory: Path) -> Iterator[None]:
    import torch

    store = torch.distributed.FileStore(str(directory / "store"), 1)
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def refusal_of(action: Callable[[], Any]) -> RefusedError:
    """The refusal that `action` must end in."""
    with pytest.raises(RefusedError) as caught:
        action()
    return caught.value


def refusing_ids(action: Callable[[], Any]) -> set[str]:
    """The ids of all findings that `action` is refused for."""
    error = refusal_of(action)
    return {finding["id"] for finding in error.findings} or {str(error.invariant)}


@pytest.fixture(scope="session")
def adapter(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of `qwen2` whose every tensor is away from zero, as training leaves it."""
    pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")
    return save_adapter(qwen2, tmp_path_factory.mktemp("library") / "adapter")
