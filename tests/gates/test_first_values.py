"""What a class draws or sets before training: refused in one layer among trained ones, let be in a fresh model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from apr.gates.finding import Status
from apr.gates.road import RoadOptions, deepen, examine
from tests.gates.test_unplanned_values import saved

VALUES = "INV-INIT-VALUES-001"
CLASSES = {
    "OPTForCausalLM": {"word_embed_proj_dim": 64, "ffn_dim": 96, "init_std": 0.05},
    "ModernBertForMaskedLM": {"cls_token_id": 0, "sep_token_id": 0},
    "LlamaForCausalLM": {},
}
MIXTURE = {"head_dim": 16, "num_key_value_heads": 2, "moe_intermediate_size": 32, "num_experts": 4}


def said(path):
    examination = deepen(examine(path, RoadOptions(run_kind=None)))
    examination.close()
    assert examination.facts.plan is not None
    return [finding for finding in examination.findings if finding.id == VALUES]


def refusals(path):
    return [finding.message for finding in said(path) if finding.status is Status.REFUSE]


def trained_but(path, kept):
    """Give every matrix uneven rows, those of the layer that `kept` names apart."""
    state = load_file(path / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if tensor.dim() > 1 and kept not in name:
            rows = torch.exp(0.6 * torch.randn(tensor.shape[0], 1, generator=generator))
            state[name] = tensor * rows * 2
    save_file(state, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.planted_defect(VALUES)
@pytest.mark.parametrize("class_name", CLASSES)
def test_one_fresh_layer_is_refused_whatever_the_class_calls_its_width(tmp_path, class_name):
    path = saved(tmp_path / "model", class_name, num_hidden_layers=4, **CLASSES[class_name])
    assert refusals(path) == []
    messages = refusals(trained_but(path, "layers.1."))
    assert any("as a fresh initialisation draws them" in message for message in messages), messages


@pytest.mark.parametrize("class_name", CLASSES)
def test_layers_that_are_all_trained_are_let_be(tmp_path, class_name):
    path = saved(tmp_path / "model", class_name, num_hidden_layers=4, **CLASSES[class_name])
    assert refusals(trained_but(path, "no layer")) == []


def test_routers_that_begin_at_zero_are_reported_in_all_layers_and_refused_in_one(tmp_path):
    path = saved(tmp_path / "model", "AfmoeForCausalLM", num_hidden_layers=4, num_dense_layers=1, **MIXTURE)
    findings = said(path)
    assert Status.REFUSE not in {finding.status for finding in findings}, findings
    assert any("some classes begin so" in finding.message for finding in findings)
    state = load_file(path / "model.safetensors")
    for name in state:
        if name.endswith("router.gate.weight") and "layers.2." not in name:
            state[name] = torch.randn(state[name].shape) * 0.02
    save_file(state, path / "model.safetensors", {"format": "pt"})
    assert any("zero everywhere" in message for message in refusals(path))


def test_room_for_integers_that_nobody_wrote_is_let_be(tmp_path):
    assert refusals(saved(tmp_path / "model", "IBertForMaskedLM")) == []
