"""`apr.load_verified` with transformers' classes: the class the checkpoint names, with its receipt, or a refusal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import apr
from apr.errors import DamagedFileError, NotFoundError, UsageError
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import relabel, save_tiny


def zoo(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


@pytest.mark.parametrize("name", [None, "AutoModelForCausalLM", "Qwen2ForCausalLM"])
def test_the_named_class_is_loaded_with_its_receipt(qwen2: Path, name: str | None) -> None:
    model, receipt = apr.load_verified(None if name is None else zoo(name), qwen2)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert receipt.tensors_written == len(load_file(qwen2 / "model.safetensors"))
    assert receipt.weights_digest.startswith("blake3:")
    assert not receipt.problems


def test_it_computes_what_transformers_computes(tied_bfloat16: Path) -> None:
    import torch

    model, _ = apr.load_verified(None, tied_bfloat16)
    theirs = zoo("AutoModelForCausalLM").from_pretrained(tied_bfloat16)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, theirs(input_ids=ids).logits)
    assert model.generation_config.to_dict() == theirs.generation_config.to_dict()


def test_a_dtype_is_the_dtype_of_the_model(qwen2: Path) -> None:
    import torch

    model, _ = apr.load_verified(None, qwen2, dtype=torch.bfloat16)
    assert model.dtype is torch.bfloat16


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "AutoModelForSequenceClassification", "Qwen2Model"])
def test_another_class_than_the_checkpoint_names_is_refused(qwen2: Path, name: str) -> None:
    error = refusal_of(lambda: apr.load_verified(zoo(name), qwen2))
    assert error.invariant == "INV-INIT-ARCH-MATCH-001"
    assert f"{name} was asked for, the checkpoint is a Qwen2ForCausalLM" in str(error)
    assert "ask for Qwen2ForCausalLM" in str(error)


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_mislabelled_checkpoint_is_refused_whatever_is_asked_for(qwen2: Path, tmp_path: Path) -> None:
    copy = relabel(Path(shutil.copytree(qwen2, tmp_path / "copy")), "llama", "LlamaForCausalLM")
    for asked in (None, zoo("LlamaForCausalLM"), zoo("Qwen2ForCausalLM"), zoo("AutoModelForCausalLM")):
        assert "INV-INIT-ARCH-MATCH-001" in refusing_ids(lambda asked=asked: apr.load_verified(asked, copy))


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_values_are_judged_before_a_model_exists(qwen2: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    state = load_file(copy / "model.safetensors")
    state["model.layers.0.self_attn.v_proj.weight"].zero_()
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert refusing_ids(lambda: apr.load_verified(None, copy)) == {"INV-INIT-VALUES-001"}


def test_tensors_alone_need_a_config_and_take_the_callers(qwen2: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(qwen2 / "model.safetensors", tmp_path / "alone.safetensors"))
    assert "FALSIFY-APR-PRETRAIN-INIT-005" in refusing_ids(lambda: apr.load_verified(None, file))
    config = zoo("AutoConfig").from_pretrained(qwen2)
    model, receipt = apr.load_verified(None, file, config=config)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert receipt.source == str(file)


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_config_that_contradicts_the_recorded_one_is_refused(qwen2: Path) -> None:
    config = zoo("AutoConfig").from_pretrained(qwen2)
    apr.load_verified(None, qwen2, config=config)
    config.rms_norm_eps = 1e-3
    error = refusal_of(lambda: apr.load_verified(None, qwen2, config=config))
    assert "the config given differs from the recorded one in rms_norm_eps" in str(error)
    assert error.invariant == "INV-INIT-CONFIG-001"


def test_an_allowed_tensor_stays_out_and_the_rest_is_proven(qwen2: Path, tmp_path: Path) -> None:
    import torch

    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    state = load_file(copy / "model.safetensors")
    save_file({**state, "stray": torch.ones(3)}, copy / "model.safetensors", metadata={"format": "pt"})
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: apr.load_verified(None, copy))
    allowed = {"stray": "a marker of our exporter"}
    model, receipt = apr.load_verified(None, copy, allowed_tensors=allowed)
    assert receipt.tensors_written == len(state)
    assert apr.verify_loaded(model, copy, allowed_tensors=allowed).tensors_written == len(state)


def test_nothing_there_and_no_checkpoint_are_errors_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        apr.load_verified(None, tmp_path / "nothing")
    (tmp_path / "text.apr").write_text("not a checkpoint")
    with pytest.raises(DamagedFileError):
        apr.load_verified(None, tmp_path / "text.apr")


def test_a_name_map_is_not_for_the_zoo(qwen2: Path) -> None:
    with pytest.raises(UsageError, match="modules of your own"):
        apr.load_verified(None, qwen2, name_map={"a": "b"})


def test_an_encoder_loads_as_what_it_is(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    verdict = apr.preflight(tmp_path, kind="encoder").facts.verdict
    if verdict is None or verdict.claim.architecture is None:
        pytest.skip("this atlas does not know BERT")
    model, _ = apr.load_verified(None, tmp_path)
    assert type(model).__name__ == "BertForMaskedLM"


def test_an_apr_file_loads_like_any_other(qwen2: Path, tmp_path: Path) -> None:
    from apr.convert.importing import import_checkpoint

    import_checkpoint(qwen2, tmp_path / "model.apr")
    _, own = apr.load_verified(None, tmp_path / "model.apr")
    _, theirs = apr.load_verified(None, qwen2)
    assert own.weights_digest == theirs.weights_digest


def test_the_text_of_a_refusal_holds_every_finding_and_the_way_out(tmp_path: Path) -> None:
    model = relabel(save_tiny(tmp_path / "model", "qwen2"), "llama", "LlamaForCausalLM")
    error = refusal_of(lambda: apr.load_verified(None, model))
    for finding in error.findings:
        assert finding["id"] in str(error)
        assert finding["message"][:40] in str(error)
    assert "apr stamp" in str(error)
    assert "--allow" not in str(error)
