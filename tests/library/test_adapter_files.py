"""Adapter directories before anybody loads them: what they promise, and what their files hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import apr
from apr.formats.peft.read import is_adapter_directory
from tests.adapters import (
    State,
    another_base,
    compiled,
    deeper,
    doubled,
    first_layer_only,
    half_without_prefix,
    hollow,
    in_parallel,
    inputs_only,
    mutate,
    named,
    narrower,
    not_finite,
    one_zero_output,
    same,
    strayed,
    without_lora,
    without_prefix,
    zero_inputs,
    zero_outputs,
)
from tests.tiny_models import relabel, save_tiny

pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")

IDENTITY, COVERAGE = "FALSIFY-APR-PRETRAIN-INIT-005", "INV-INIT-COVERAGE-001"
SHAPE, VALUES = "INV-INIT-SHAPE-001", "INV-INIT-VALUES-001"
DEFECTS = [
    (without_prefix, {}, COVERAGE, "all 8 adapter tensors lack the prefix `base_model.model.`"),
    (half_without_prefix, {}, COVERAGE, "4 of 8 adapter tensors lack the prefix"),
    (compiled, {}, COVERAGE, "put there by torch.compile"),
    (in_parallel, {}, COVERAGE, "put there by DataParallel or DistributedDataParallel"),
    (doubled, {}, COVERAGE, "8 of 8 adapter names carry `base_model.model.` twice"),
    (named, {}, COVERAGE, "8 of 8 adapter names carry the adapter's own name, style"),
    (strayed, {}, COVERAGE, "1 adapter tensors belong to nothing"),
    (deeper, {}, COVERAGE, "2 adapted modules do not exist in the base model"),
    (same, {"target_modules": ["q_proj"]}, COVERAGE, "2 modules have adapter tensors, and the config does not adapt"),
    (same, {"target_modules": ["q_proj", "v_proj", "o_proj"]}, COVERAGE, "2 modules that the config adapts have no"),
    (same, {"layers_to_transform": [0]}, COVERAGE, "2 modules have adapter tensors, and the config does not adapt"),
    (same, {"target_modules": ".*[qkv]_proj"}, COVERAGE, "2 modules that the config adapts have no tensors"),
    (same, {"modules_to_save": ["lm_head"]}, COVERAGE, "1 modules that the config trains whole"),
    (narrower, {}, SHAPE, "4 LoRA tensors do not fit the modules of the base model"),
    (same, {"rank_pattern": {"v_proj": 2}}, SHAPE, "4 LoRA tensors are not of the rank"),
    (first_layer_only, {}, COVERAGE, "2 modules that the config adapts have no tensors in the file"),
    (inputs_only, {}, COVERAGE, "4 LoRA tensors lack their other half"),
    (another_base, {}, COVERAGE, "4 adapted modules do not exist in the base model"),
    (without_lora, {}, COVERAGE, "the file holds no LoRA tensor, though its config says LoRA"),
    (zero_outputs, {}, VALUES, "4 of 8 adapter tensors are a zero `lora_B`"),
    (one_zero_output, {}, VALUES, "1 of 8 adapter tensors are a zero `lora_B`"),
    (zero_inputs, {}, VALUES, "4 of 8 adapter tensors are a zero `lora_A`"),
    (hollow, {}, VALUES, "8 of 8 adapter tensors hold no elements"),
    (not_finite, {}, VALUES, "hold NaN or infinite values"),
    (same, {"r": 8}, SHAPE, "8 LoRA tensors are not of the rank that the config states"),
    (same, {"lora_alpha": 0}, IDENTITY, "does not say how the adapter is applied"),
    (same, {"lora_alpha": None}, IDENTITY, "lora_alpha is None"),
    (same, {"lora_alpha": float("nan")}, IDENTITY, "lora_alpha is nan, not a positive number"),
    (same, {"lora_alpha": float("inf")}, IDENTITY, "lora_alpha is inf, not a positive number"),
    (same, {"r": 4.0}, IDENTITY, "r is 4.0, not a positive number without fraction"),
    (same, {"alpha_pattern": {"q_proj": 0, "v_proj": 0}}, IDENTITY, "alpha_pattern gives 0, not a positive number"),
    (same, {"alpha_pattern": {"q_proj": 0}}, IDENTITY, "to model.layers.{0–1}.self_attn.q_proj (2)"),
    (same, {"alpha_pattern": {r"layers\.\d.*": 0.0}}, IDENTITY, "alpha_pattern gives 0.0"),
    (same, {"alpha_pattern": {"v_proj": float("nan")}}, IDENTITY, "alpha_pattern gives nan"),
    (same, {"alpha_pattern": {"v_proj": None}}, IDENTITY, "alpha_pattern gives None"),
    (same, {"use_rslora": "false"}, IDENTITY, "use_rslora is the text 'false', and PEFT takes any text for true"),
    (same, {"rank_pattern": {r".*\.v_proj": 2}}, SHAPE, "4 LoRA tensors are not of the rank"),
    (same, {"use_dora": True}, COVERAGE, "4 adapted modules lack DoRA magnitudes"),
    (same, {"kasa_config": {"beta": 1e-4}}, COVERAGE, "4 adapted modules lack singular values of KaSA"),
    (same, {"lora_bias": True}, COVERAGE, "4 adapted modules lack biases of `lora_B`"),
    (
        same,
        {"bias": "all"},
        COVERAGE,
        "6 biases of the base were trained, as the config says (bias), and the file holds",
    ),
    (same, {"bias": "lora_only"}, COVERAGE, "4 biases of the base were trained"),
    (same, {"trainable_token_indices": [1]}, COVERAGE, "the file lacks the rows of tokens"),
    (same, {"peft_type": None}, IDENTITY, "peft_type names no kind of adapter"),
    (same, {"peft_type": "BANANA"}, IDENTITY, "peft_type is 'BANANA', which is no kind of adapter of PEFT"),
    (same, {"peft_type": "lora"}, IDENTITY, "peft_type is 'lora', which PEFT reads as 'LORA' only"),
    (same, {"peft_type": "IA3"}, COVERAGE, "none of 8 tensors is one of IA3"),
    (same, {"peft_type": "VERA"}, COVERAGE, "none of 8 tensors is one of VERA"),
    (same, {"peft_type": "ADALORA"}, COVERAGE, "none of 8 tensors is one of ADALORA"),
]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
@pytest.mark.parametrize(
    ("change", "config", "gate", "said"), DEFECTS, ids=[f"{each[0].__name__}-{'-'.join(each[1])}" for each in DEFECTS]
)
def test_a_defect_is_refused_from_the_files_alone(
    adapter: Path, tmp_path: Path, change: Callable[[State], State], config: dict[str, Any], gate: str, said: str
) -> None:
    refusals = apr.preflight(mutate(adapter, tmp_path / "adapter", change, **config)).refusals
    assert gate in {finding.id for finding in refusals}
    assert said in " ".join(f"{finding.message} {finding.found}" for finding in refusals)


def test_a_sound_adapter_is_accepted_with_its_base(adapter: Path) -> None:
    examination = apr.preflight(adapter, deep=True)
    assert examination.is_accepted
    assert any(finding.message.startswith("base model ") for finding in examination.findings)
    assert not [finding for finding in examination.findings if finding.id == IDENTITY and "unchecked" in finding.status]


def test_a_zero_output_is_legal_once_it_is_declared(adapter: Path, tmp_path: Path) -> None:
    fresh = mutate(adapter, tmp_path / "fresh", zero_outputs)
    assert not apr.preflight(fresh).is_accepted
    assert apr.preflight(fresh, fresh_adapter=True).is_accepted


def test_an_allowed_tensor_may_be_zero(adapter: Path, tmp_path: Path) -> None:
    copy = mutate(adapter, tmp_path / "copy", one_zero_output)
    zero = next(name for name, tensor in load_file(copy / "adapter_model.safetensors").items() if not tensor.any())
    assert apr.preflight(copy, allowed_tensors={zero: "this expert was never routed to"}).is_accepted


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_mislabelled_base_is_refused_through_its_adapter(adapter: Path, tmp_path: Path) -> None:
    base = relabel(save_tiny(tmp_path / "base", "qwen2"), "llama", "LlamaForCausalLM")
    copy = mutate(adapter, tmp_path / "copy", same, base_model_name_or_path=str(base))
    refusals = apr.preflight(copy).refusals
    assert "INV-INIT-ARCH-MATCH-001" in {finding.id for finding in refusals}
    assert all(finding.message.startswith(f"base model {base}") for finding in refusals)


def test_a_base_that_is_not_here_is_said_to_be_unchecked(adapter: Path, tmp_path: Path) -> None:
    copy = mutate(adapter, tmp_path / "copy", same, base_model_name_or_path="organisation/absent")
    examination = apr.preflight(copy)
    assert examination.is_accepted
    assert "the base model organisation/absent is not on this machine" in {
        each.message for each in examination.findings
    }


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-004")
@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_files_that_cannot_be_read_are_findings(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "pickled"))
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    assert {finding.id for finding in apr.preflight(copy).refusals} == {"FALSIFY-APR-PRETRAIN-INIT-004"}
    short = Path(shutil.copytree(adapter, tmp_path / "short"))
    data = (short / "adapter_model.safetensors").read_bytes()
    (short / "adapter_model.safetensors").write_bytes(data[:-4])
    assert "INV-FILE-INTEGRITY-001" in {finding.id for finding in apr.preflight(short).refusals}


def test_what_is_expected_in_place_of_an_unknown_kind_is_listed(adapter: Path, tmp_path: Path) -> None:
    refused = apr.preflight(mutate(adapter, tmp_path / "unknown", same, peft_type="BANANA")).refusals
    assert "peft_type LORA" in str(refused[0].expected)
    assert "IA3" in str(refused[0].expected)


def test_an_alpha_for_modules_that_are_not_adapted_changes_nothing(adapter: Path, tmp_path: Path) -> None:
    assert apr.preflight(mutate(adapter, tmp_path / "other", same, alpha_pattern={"o_proj": 0})).is_accepted


def test_an_alpha_pattern_that_cannot_be_matched_is_said_to_be_undecided(adapter: Path, tmp_path: Path) -> None:
    examination = apr.preflight(mutate(adapter, tmp_path / "odd", same, alpha_pattern={"(unclosed": 0}))
    assert "which modules alpha_pattern scales, the config alone does not tell" in {
        each.message for each in examination.findings
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_beside_a_model_is_said_to_be_unchecked_and_what_it_does(
    adapter: Path, qwen2: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    both = Path(shutil.copytree(qwen2, tmp_path / "both"))
    shutil.copy(adapter / "adapter_config.json", both)
    assert "looks for the adapter's weights and fails" in _said_beside(both)
    with pytest.raises(OSError, match="adapter_model"):
        AutoModelForCausalLM.from_pretrained(both)
    shutil.copy(adapter / "adapter_model.safetensors", both)
    assert "lays that adapter over these weights by itself" in _said_beside(both)
    tokens = torch.arange(3, 20)[None]
    assert not torch.equal(
        AutoModelForCausalLM.from_pretrained(both)(tokens).logits,
        AutoModelForCausalLM.from_pretrained(qwen2)(tokens).logits,
    )
    verified, _ = apr.load_verified(None, both)
    assert torch.equal(verified(tokens).logits, AutoModelForCausalLM.from_pretrained(qwen2)(tokens).logits)
    assert _said_beside(qwen2) == ""


def _said_beside(path: Path) -> str:
    examination = apr.preflight(path)
    assert examination.is_accepted
    return " ".join(each.message for each in examination.findings if "beside the model" in each.message)


def test_a_model_with_an_adapter_beside_it_is_a_model(adapter: Path, qwen2: Path, tmp_path: Path) -> None:
    assert is_adapter_directory(adapter)
    both = Path(shutil.copytree(qwen2, tmp_path / "both"))
    shutil.copy(adapter / "adapter_config.json", both)
    assert not is_adapter_directory(both)
    assert not is_adapter_directory(qwen2)
