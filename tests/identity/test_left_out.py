"""Heads for multi-token prediction that a published file holds and its class declares it leaves out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import apr
from apr.convert.importing import import_checkpoint
from apr.gates.road import RoadOptions, examine
from apr.identity.left_out import LEFT_OUT
from apr.loading.ledger import Rule
from tests.tiny_models import save_tiny

GLM = {
    "num_hidden_layers": 46,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 46,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 0,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLM-4.5 of 46 layers, as deep as the published one whose head is called layer 46."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from apr.loading.quiet import quiet_zoo

    directory = tmp_path_factory.mktemp("left_out") / "glm"
    torch.manual_seed(0)
    with quiet_zoo():
        AutoModelForCausalLM.from_config(AutoConfig.for_model("glm4_moe", **GLM)).save_pretrained(directory)
    return directory


def with_more(source: Path, target: Path, names: list[str]) -> Path:
    """`source` copied, with a tensor of each name besides."""
    import numpy as np

    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    more = {name: np.full((8, 8), 0.1, dtype=np.float32) for name in names}
    save_file({**tensors, **more}, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


HEAD = ["model.layers.46.eh_proj.weight", "model.layers.46.enorm.weight", "model.layers.46.shared_head.head.weight"]


def test_the_head_is_left_out_with_its_reason_and_the_rest_is_proven(plain: Path, tmp_path: Path) -> None:
    path = with_more(plain, tmp_path / "published", HEAD)
    examination = examine(path, RoadOptions())
    examination.close()
    assert examination.is_accepted
    plan = examination.facts.plan
    assert plan is not None
    rulings = {each.name: each for each in plan.ledger.ruled}
    assert {rulings[name].rule for name in HEAD} == {Rule.LEFT_OUT}
    assert "multi-token prediction, which glm4_moe leaves out" in str(rulings[HEAD[0]].reason)
    said = next(each.message for each in examination.findings if each.id == "INV-INIT-COVERAGE-001")
    assert "left out of the model: model.layers.46." in said
    model, receipt = apr.load_verified(None, path)
    assert receipt.tensors_written == len(load_file(plain / "model.safetensors"))
    assert apr.verify_loaded(model, path).tensors_written == receipt.tensors_written


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize("name", ["model.layers.47.enorm.weight", "model.layers.3.eh_proj.weight", "mtp.fc.weight"])
def test_no_other_tensor_is_left_out(plain: Path, tmp_path: Path, name: str) -> None:
    refused = examine(with_more(plain, tmp_path / "more", [*HEAD, name]), RoadOptions())
    refused.close()
    assert "INV-INIT-COVERAGE-001" in {each.id for each in refused.refusals}


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_layer_that_the_class_has_is_no_head(plain: Path, tmp_path: Path) -> None:
    """With one layer more in the config, layer 46 is part of the model, and the head's tensors do not fill it."""
    path = with_more(plain, tmp_path / "deeper", HEAD)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 47, "layer_types": None}))
    refused = examine(path, RoadOptions())
    refused.close()
    assert not refused.is_accepted


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_layer_that_a_wrong_depth_cuts_off_is_no_head(plain: Path, tmp_path: Path) -> None:
    """A model of 47 layers whose config says 46: its last layer has the head's number, and nothing else of it."""
    last = ["model.layers.46.input_layernorm.weight", "model.layers.46.self_attn.q_proj.weight"]
    refused = examine(with_more(plain, tmp_path / "cut", last), RoadOptions())
    refused.close()
    assert "INV-INIT-COVERAGE-001" in {each.id for each in refused.refusals}


def test_an_imported_file_keeps_the_head_and_leaves_it_out_as_well(plain: Path, tmp_path: Path) -> None:
    import_checkpoint(with_more(plain, tmp_path / "published", HEAD), tmp_path / "x.apr")
    examination = examine(tmp_path / "x.apr", RoadOptions())
    examination.close()
    assert examination.is_accepted
    assert examination.facts.checkpoint is not None
    assert set(HEAD) <= examination.facts.checkpoint.tensors.keys()


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_class_that_declares_nothing_leaves_nothing_out(tmp_path: Path) -> None:
    refused = examine(with_more(save_tiny(tmp_path / "llama", "llama"), tmp_path / "more", HEAD), RoadOptions())
    refused.close()
    assert not refused.is_accepted


def declared(model_type: str) -> tuple[str, ...]:
    """Patterns that the causal class of the installed zoo declares, old buffers and other senses left aside."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    found: Any = getattr(transformers, CLASSES[model_type])._keys_to_ignore_on_load_unexpected or ()
    return tuple(pattern for pattern in found if re.search(r"mtp|layers\\?\.\d", pattern))


@pytest.mark.interop
def test_the_table_is_what_the_zoo_declares() -> None:
    assert {model_type: declared(model_type) for model_type in LEFT_OUT} == dict(LEFT_OUT)
