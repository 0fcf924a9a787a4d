"""Adapter directories before anybody loads them: what they promise, and what their files hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import apr
from apr.library.adapter_files import is_adapter_directory, targets
from tests.tiny_models import relabel, save_tiny

pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")

IDENTITY, COVERAGE = "FALSIFY-APR-PRETRAIN-INIT-005", "INV-INIT-COVERAGE-001"
SHAPE, VALUES = "INV-INIT-SHAPE-001", "INV-INIT-VALUES-001"
State = dict[str, torch.Tensor]


def mutate(source: Path, target: Path, change: Callable[[State], State], **config: Any) -> Path:
    """A copy of an adapter directory with other tensors, or other fields in its config."""
    shutil.copytree(source, target)
    weights = target / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(weights)).items()}, weights)
    recorded = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**recorded, **config}))
    return target


def same(state: State) -> State:
    return state


def without_prefix(state: State) -> State:
    return {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}


def half_without_prefix(state: State) -> State:
    return {
        name.removeprefix("base_model.model.") if "layers.1" in name else name: each for name, each in state.items()
    }


def compiled(state: State) -> State:
    return {name.replace(".model.layers.", ".model._orig_mod.layers."): tensor for name, tensor in state.items()}


def zero_outputs(state: State) -> State:
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in state.items()}


def one_zero_output(state: State) -> State:
    zero = next(name for name in state if "lora_B" in name)
    return {**state, zero: state[zero] * 0}


def zero_inputs(state: State) -> State:
    return {name: tensor * 0 if "lora_A" in name else tensor for name, tensor in state.items()}


def first_layer_only(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "layers.0" in name}


def inputs_only(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "lora_A" in name}


def another_base(state: State) -> State:
    return {name.replace("self_attn", "attention"): tensor for name, tensor in state.items()}


def hollow(state: State) -> State:
    return {name: tensor[:0] for name, tensor in state.items()}


def not_finite(state: State) -> State:
    return {name: tensor / 0 for name, tensor in state.items()}


def without_lora(state: State) -> State:
    return {"base_model.model.lm_head.weight": torch.rand(4, 4)}


DEFECTS = [
    (without_prefix, {}, COVERAGE, "all 8 adapter tensors lack the prefix `base_model.model.`"),
    (half_without_prefix, {}, COVERAGE, "4 of 8 adapter tensors lack the prefix"),
    (compiled, {}, COVERAGE, "put there by torch.compile"),
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


@pytest.mark.parametrize(
    ("config", "module", "answer"),
    [
        ({"target_modules": ["q_proj"]}, "model.layers.0.self_attn.q_proj", True),
        ({"target_modules": ["q_proj"]}, "model.layers.0.self_attn.my_q_proj", False),
        ({"target_modules": ["model.layers.0.self_attn.q_proj"]}, "model.layers.0.self_attn.q_proj", True),
        ({"target_modules": "all-linear"}, "model.layers.0.self_attn.q_proj", None),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, "model.layers.0.self_attn.q_proj", None),
    ],
)
def test_target_modules_are_read_as_peft_reads_them(config: dict[str, Any], module: str, answer: bool | None) -> None:
    assert targets(config, module) is answer
