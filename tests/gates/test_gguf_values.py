"""Values of GGUF files: scales of quantised blocks, and norms as llama.cpp computes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apr.cli.main import run
from tests.gguf_models import write_gguf as convert
from tests.identity.gguf_models import MODELS, Model, metadata_of, model_of, name_of, write_gguf
from tests.tiny_models import save_tiny

VALUES = "INV-INIT-VALUES-001"
NAME = "blk.1.ffn_up.weight"
Preflight = Callable[[Path], tuple[int, list[str]]]


@pytest.fixture
def preflight(capsys: pytest.CaptureFixture[str]) -> Preflight:
    """`preflight(path)` gives the exit code of `--deep`, and what the values gate says."""

    def call(path: Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = run(["preflight", str(path), "--deep", "--json"])
        findings = json.loads(capsys.readouterr().out)["findings"]
        return code, [each["message"] for each in findings if each["id"] == VALUES]

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("trained") / "qwen2", "qwen2")


def change(path: Path, names: Callable[[str], bool], edit: Callable[[Any], None]) -> None:
    """Let `edit` change the data of the tensors in the file at `path`: rows of blocks for quantised ones."""
    from gguf import GGML_QUANT_SIZES, GGUFReader

    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if names(tensor.name):
            block_bytes = GGML_QUANT_SIZES[tensor.tensor_type][1]
            edit(tensor.data.reshape(-1, block_bytes) if tensor.data.dtype == np.uint8 else tensor.data)
    reader.data.flush()


def half(value: float) -> np.ndarray[Any, Any]:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_healthy_quantised_file_is_accepted_and_says_what_was_looked_at(
    kind: str, trained: Path, tmp_path: Path, preflight: Preflight
) -> None:
    code, said = preflight(convert(trained, tmp_path / "model.gguf", "qwen2", kind))
    assert code == 0
    assert said == [
        "27 tensors hold finite values that fit their roles; of 16 quantised ones the scale and the codes of every "
        "block say so"
    ]


@pytest.mark.planted_defect(VALUES)
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_not_finite_is_refused(
    kind: str, value: float, trained: Path, tmp_path: Path, preflight: Preflight
) -> None:
    path = convert(trained, tmp_path / "model.gguf", "qwen2", kind)

    def poison(blocks: Any) -> None:
        blocks[-1, :2] = half(value)

    change(path, NAME.__eq__, poison)
    code, said = preflight(path)
    assert (code, said) == (5, ["1 tensors hold NaN or infinite values"])


@pytest.mark.planted_defect(VALUES)
def test_a_quantised_matrix_of_zeros_is_refused_and_one_with_zero_blocks_is_not(
    trained: Path, tmp_path: Path, preflight: Preflight
) -> None:
    def scales(blocks: Any) -> None:
        blocks[:, :2] = 0

    def codes(blocks: Any) -> None:
        blocks[:, 2:] = 0

    def most_scales(blocks: Any) -> None:
        blocks[:-1, :2] = 0

    for number, edit in enumerate((scales, codes, most_scales)):
        path = convert(trained, tmp_path / f"{number}.gguf", "qwen2", "Q8_0")
        change(path, NAME.__eq__, edit)
        code, said = preflight(path)
        if edit is most_scales:
            assert code == 0, said
        else:
            assert (code, said) == (5, ["1 tensors are zero everywhere, which their role forbids"])


@pytest.mark.planted_defect(VALUES)
@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_a_norm_of_zeros_is_refused(model: Model, tmp_path: Path, preflight: Preflight) -> None:
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    name = next(name for name in reversed(model.shapes) if "norm" in name and name.endswith("weight"))
    assert preflight(path)[0] == 0

    def erase(values: Any) -> None:
        values[:] = 0

    change(path, name.__eq__, erase)
    code, said = preflight(path)
    assert code == 5
    assert said[0].startswith("1 norm gains are zero everywhere")


@pytest.mark.planted_defect(VALUES)
@pytest.mark.parametrize("slug", ["gemma", "gemma2", "gemma3", "llama", "phi3"])
def test_gains_without_the_one_that_the_converter_adds_are_refused(
    slug: str, tmp_path: Path, preflight: Preflight
) -> None:
    model = model_of(slug)
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))

    def take_one(values: Any) -> None:
        values -= 1

    change(path, lambda name: "norm" in name, take_one)
    code, said = preflight(path)
    assert code == 5
    assert said[0].startswith("the norm gains lie around 0, and llama.cpp computes x * w with them")


def test_gains_that_training_spread_around_one_are_healthy_in_every_architecture(
    tmp_path: Path, preflight: Preflight
) -> None:
    random = np.random.default_rng(0)

    def spread(values: Any) -> None:
        values[:] = (1 + 0.4 * random.standard_normal(values.shape)) * random.uniform(0.2, 3)

    for number, model in enumerate(MODELS):
        path = write_gguf(tmp_path / f"{number}.gguf", model.shapes, metadata_of(model))
        change(path, lambda name: "norm" in name and name.endswith("weight"), spread)
        code, said = preflight(path)
        assert code == 0, (model.slug, said)
