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
    (same, {"peft_type": None}, IDENTITY, "peft_type names no kind of adapter"),
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


def test_a_model_with_an_adapter_beside_it_is_a_model(adapter: Path, qwen2: Path, tmp_path: Path) -> None:
    assert is_adapter_directory(adapter)
    both = Path(shutil.copytree(qwen2, tmp_path / "both"))
    shutil.copy(adapter / "adapter_config.json", both)
    assert not is_adapter_directory(both)
    assert not is_adapter_directory(qwen2)
