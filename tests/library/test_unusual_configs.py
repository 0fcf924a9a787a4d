"""Healthy checkpoints of classes whose config decides in unusual ways which tensors there are, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import apr
from apr.gates.finding import Status
from apr.identity.atlas import load_atlas
from tests.library.conftest import refusing_ids

COVERAGE, SHAPE, ARCHITECTURE = "INV-INIT-COVERAGE-001", "INV-INIT-SHAPE-001", "INV-INIT-ARCH-MATCH-001"
COMMON = {
    "vocab_size": 160,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
RELATIVE = {"relative_attention": True, "max_relative_positions": -1, "position_biased_input": False}
V3 = {**RELATIVE, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
LOW_RANK = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "first_k_dense_replace": 1,
}
LFM2 = {
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_dense_layers": 1,
    "layer_types": ["conv", "full_attention"],
}

Model = tuple[str, dict[str, Any], dict[str, Any]]
"""Class name, fields of its config, and what its config.json says otherwise."""

HEALTHY: dict[str, Model] = {
    "deberta, words": ("Deberta", RELATIVE, {"pos_att_type": "c2p|p2c"}),
    "deberta, words the other way round": ("Deberta", RELATIVE, {"pos_att_type": "p2c|c2p"}),
    "deberta, a list": ("Deberta", RELATIVE, {"pos_att_type": ["c2p", "p2c"]}),
    "deberta, one kind": ("Deberta", RELATIVE, {"pos_att_type": ["p2c"]}),
    "deberta, no kind": ("Deberta", RELATIVE, {"pos_att_type": None}),
    "deberta, zero for unset": ("Deberta", {**RELATIVE, "max_relative_positions": 0}, {"pos_att_type": "c2p"}),
    "deberta, a size": ("Deberta", {**RELATIVE, "max_relative_positions": 32}, {"pos_att_type": "c2p"}),
    "deberta, as its class builds it": ("Deberta", {}, {}),
    "deberta-v3": ("DebertaV2", V3, {"pos_att_type": "p2c|c2p"}),
    "deberta-v3 with keys of its own": ("DebertaV2", {**V3, "share_att_key": False}, {"pos_att_type": "p2c|c2p"}),
    "deberta-v2 without buckets": ("DebertaV2", {**V3, "position_buckets": -1}, {"pos_att_type": ["c2p"]}),
    "deberta-v2, zero buckets": ("DebertaV2", {**V3, "position_buckets": 0}, {"pos_att_type": ["c2p"]}),
    "deepseek_v2 lite": ("DeepseekV2", {**LOW_RANK, "topk_method": "greedy"}, {}),
    "deepseek_v2 in groups": ("DeepseekV2", {**LOW_RANK, "topk_method": "group_limited_greedy"}, {}),
    "deepseek_v2 without experts": ("DeepseekV2", {**LOW_RANK, "first_k_dense_replace": 2}, {}),
    "deepseek_v2 with a low rank": ("DeepseekV2", {**LOW_RANK, "q_lora_rank": 16}, {}),
    "deepseek_v3 without a low rank": ("DeepseekV3", LOW_RANK, {}),
    "lfm2_moe": ("Lfm2Moe", LFM2, {}),
    "lfm2_moe without attention": ("Lfm2Moe", {**LFM2, "layer_types": ["conv", "conv"]}, {}),
    "lfm2_moe, untied in its own word": (
        "Lfm2Moe",
        {**LFM2, "tie_word_embeddings": False},
        {"tie_word_embeddings": None, "tie_embedding": False},
    ),
}


def save(directory: Path, model: Model) -> Path:
    import torch
    import transformers

    family, fields, written = model
    head = "ForMaskedLM" if family.startswith("Deberta") else "ForCausalLM"
    words = {name: value for name, value in written.items() if name == "pos_att_type"}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**COMMON, **fields, **words})
    module = getattr(transformers, f"{family}{head}")(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    module.save_pretrained(directory)
    recorded = json.loads((directory / "config.json").read_text()) | written
    kept = {name: value for name, value in recorded.items() if value is not None or name in {*words, "q_lora_rank"}}
    (directory / "config.json").write_text(json.dumps(kept))
    return directory


@pytest.mark.parametrize("case", HEALTHY)
def test_it_is_accounted_for_from_headers_bytes_and_in_memory(case: str, tmp_path: Path) -> None:
    path = save(tmp_path / "model", HEALTHY[case])
    examination = apr.preflight(path, deep=True)
    assert examination.is_accepted, examination.refusals
    passed = {finding.id for finding in examination.findings if finding.status is Status.PASS}
    assert {COVERAGE, SHAPE, ARCHITECTURE} <= passed
    verdict = examination.facts.verdict
    assert verdict is not None
    assert verdict.claim.architecture in [each.architecture for each in verdict.evidence.candidates]
    assert not apr.load_verified(None, path)[1].problems


DAMAGES = {
    "deberta, words": ".layer.1.attention.self.pos_q_proj.bias",
    "deberta-v3 with keys of its own": ".layer.0.attention.self.pos_key_proj.weight",
    "deepseek_v2 lite": ".layers.1.self_attn.q_proj.weight",
    "lfm2_moe": "embed_tokens.weight",
    "lfm2_moe without attention": ".layers.1.",
}


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize("case", DAMAGES)
def test_without_a_tensor_it_is_refused_from_headers(case: str, tmp_path: Path) -> None:
    path = save(tmp_path / "model", HEALTHY[case])
    state = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if DAMAGES[case] not in name}
    assert len(kept) < len(state)
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    assert COVERAGE in {finding.id for finding in apr.preflight(path).refusals}
    assert refusing_ids(lambda: apr.load_verified(None, path))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_config_that_takes_the_projections_away_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model", HEALTHY["deberta, words"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "pos_att_type": "c2p"}))
    assert COVERAGE in {finding.id for finding in apr.preflight(path).refusals}


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_wrong_size_is_no_unset_one(tmp_path: Path) -> None:
    path = save(tmp_path / "model", HEALTHY["deberta, a size"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_relative_positions": 16}))
    assert {"INV-INIT-CONFIG-001", SHAPE} <= {finding.id for finding in apr.preflight(path).refusals}
    (path / "config.json").write_text(json.dumps({**config, "max_relative_positions": -1}))
    assert SHAPE in {finding.id for finding in apr.preflight(path).refusals}


def save_lfm2(directory: Path, **changes: Any) -> Path:
    import transformers

    fields = {**COMMON, "num_key_value_heads": 2, "full_attn_idxs": [1], "conv_bias": False, **changes}
    transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**fields)).save_pretrained(directory)
    return directory


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_class_known_by_names_alone_has_an_embedding_all_the_same(tmp_path: Path) -> None:
    entry = load_atlas().find_class("Lfm2ForCausalLM")
    assert entry is not None
    assert not entry.is_exact, "take another class: this one is known exactly now"
    path = save_lfm2(tmp_path / "model")
    assert apr.preflight(path).is_accepted
    state = load_file(path / "model.safetensors")
    state.pop("model.embed_tokens.weight")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert ARCHITECTURE in {finding.id for finding in apr.preflight(path).refusals}


@pytest.mark.parametrize(
    "changes", [{"full_attn_idxs": []}, {"full_attn_idxs": [0, 1]}, {"tie_word_embeddings": False}]
)
def test_what_else_such_a_class_lists_may_be_absent(changes: dict[str, Any], tmp_path: Path) -> None:
    assert apr.preflight(save_lfm2(tmp_path / "model", **changes)).is_accepted
