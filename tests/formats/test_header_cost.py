"""Opening a checkpoint costs its headers: no numpy, no torch, milliseconds, and no more for a larger file."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.hf.write import write_hf_directory
from apr.formats.recorded import Recorded
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.write import write_safetensors
from apr.formats.writing import TensorToWrite, tensor_digests, tensor_from_bytes
from tests.formats.crafted_gguf import ARCHITECTURE, F16_TENSOR, crafted, info, words

HEAVY = ("numpy", "torch", "transformers", "pydantic", "yaml", "rich", "gguf", "blake3", "concurrent.futures")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("checkpoints")
    parts: list[TensorToWrite] = [
        tensor_from_bytes(f"model.layers.{number // 12}.block_{number % 12}.weight", DType.BF16, (4, 4), bytes(32))
        for number in range(1000)
    ]
    record = Recorded(tensor_digests=tensor_digests(parts))
    write_apr2(directory / "x.apr", metadata={"apr_recorded": record.to_json()}, tensors=parts)
    write_safetensors(directory / "x.safetensors", tensors=parts)
    write_hf_directory(directory / "x", config={"model_type": "x"}, tensors=parts, recorded=record, shard_bytes=1000)
    names = [f"blk.{number // 12}.block_{number % 12}.weight" for number in range(1000)]
    infos = [info(name, [4, 4], F16_TENSOR, 32 * number) for number, name in enumerate(names)]
    vocabulary = words("tokenizer.ggml.tokens", [f"token {number}" for number in range(1000)])
    (directory / "x.gguf").write_bytes(crafted([ARCHITECTURE, vocabulary], infos, bytes(32_000)))
    return [directory / "x.apr", directory / "x.safetensors", directory / "x", directory / "x.gguf"]


def test_reading_headers_imports_nothing_heavy(checkpoints: list[Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from apr.formats.registry import open_checkpoint\n"
        "for path in sys.argv[1:]: open_checkpoint(Path(path)).close()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *checkpoints], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_thousand_tensors_open_in_a_fraction_of_the_budget_of_a_preflight(checkpoints: list[Path]) -> None:
    for path in checkpoints:
        times_s = []
        for _ in range(3):
            start_s = time.process_time()
            open_checkpoint(path).close()
            times_s.append(time.process_time() - start_s)
        assert min(times_s) < 0.15, path


def test_a_vocabulary_of_150_000_tokens_opens_in_a_fraction_of_100_ms_and_little_memory(tmp_path: Path) -> None:
    tokens = words("tokenizer.ggml.tokens", [f"token {number}" for number in range(150_000)])
    merges = words("tokenizer.ggml.merges", [f"a b{number}" for number in range(150_000)])
    (tmp_path / "x.gguf").write_bytes(crafted([ARCHITECTURE, tokens, merges]))
    times_s = []
    for _ in range(5):
        start_s = time.process_time()
        open_checkpoint(tmp_path / "x.gguf").close()
        times_s.append(time.process_time() - start_s)
    assert min(times_s) < 0.08
    tracemalloc.start()
    try:
        open_checkpoint(tmp_path / "x.gguf").close()
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
