"""Classes of transformers that the atlas does not have: built by name and accounted for, where that may be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import apr
import apr.hf
from apr.gates.road import RoadOptions, examine
from apr.identity.atlas import load_atlas
from tests.library.conftest import refusal_of, refusing_ids

AGREE, COVERAGE = "INV-STAMP-AGREE-001", "INV-INIT-COVERAGE-001"
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "LongT5EncoderModel": ("LongT5Config", T5),
    "SwitchTransformersEncoderModel": ("SwitchTransformersConfig", {**T5, "num_experts": 2}),
    "GPT2DoubleHeadsModel": (
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "num_labels": 1},
    ),
    "XLNetForQuestionAnswering": (
        "XLNetConfig",
        {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48},
    ),
}


def save(directory: Path, name: str) -> tuple[type[Any], Path]:
    import torch
    import transformers

    assert load_atlas().find_class(name) is None, "take another class: the atlas has this one now"
    config, fields = MODELS[name]
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    module = model_class(getattr(transformers, config)(**fields))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    module.save_pretrained(directory)
    return model_class, directory


def restamp(directory: Path, name: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": [name]}))


@pytest.mark.parametrize("name", MODELS)
def test_the_class_itself_accounts_for_its_tensors(name: str, tmp_path: Path) -> None:
    model_class, path = save(tmp_path / "model", name)
    loaded, receipt = apr.load_verified(None, path)
    assert type(loaded) is model_class
    assert not receipt.problems
    theirs = model_class.from_pretrained(path)
    assert apr.verify_loaded(theirs, path).weights_digest == receipt.weights_digest
    assert type(apr.hf.from_pretrained(model_class, path)) is model_class


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_headers_alone_say_who_could_tell(tmp_path: Path) -> None:
    _, path = save(tmp_path / "model", "LongT5EncoderModel")
    finding = next(each for each in apr.preflight(path).refusals if each.id == AGREE)
    assert "which the atlas does not have" in finding.message
    assert finding.remedy is not None
    assert f"apr preflight {path} --load" in finding.remedy


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_a_name_that_nobody_has_is_refused_as_such(tmp_path: Path) -> None:
    model_class, path = save(tmp_path / "model", "LongT5EncoderModel")
    restamp(path, "LongT5EncodrModel")
    theirs = model_class.from_pretrained(path)
    error = refusal_of(lambda: apr.verify_loaded(theirs, path))
    assert "contradict" not in str(error)
    examination = examine(path, RoadOptions(run_kind=None, may_use_zoo=True))
    examination.close()
    finding = next(each for each in examination.refusals if each.id == AGREE)
    assert "neither the atlas nor the installed transformers has" in finding.message


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_a_class_of_another_model_type_contradicts_it(tmp_path: Path) -> None:
    model_class, path = save(tmp_path / "model", "LongT5EncoderModel")
    restamp(path, "SwitchTransformersEncoderModel")
    assert AGREE in refusing_ids(lambda: apr.load_verified(None, path))
    assert AGREE in refusing_ids(lambda: apr.verify_loaded(model_class.from_pretrained(path), path))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_tensor_that_is_gone_is_refused(tmp_path: Path) -> None:
    model_class, path = save(tmp_path / "model", "LongT5EncoderModel")
    state = load_file(path / "model.safetensors")
    state.pop("encoder.block.0.layer.1.DenseReluDense.wo.weight")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert COVERAGE in refusing_ids(lambda: apr.load_verified(None, path))
    assert refusing_ids(lambda: apr.verify_loaded(model_class.from_pretrained(path), path))
