"""Config values that no model can compute with, said by name, each beside a value that is in use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.gates.finding import Finding, Status
from apr.gates.road import RoadOptions, examine
from apr.identity.types import Kind
from tests.tiny_models import save_tiny

CONFIG_ID = "INV-INIT-CONFIG-001"
Set = Callable[[dict[str, Any]], Any]


def with_config(path: Path, change: Set) -> Path:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))
    return path


def refusals(path: Path, run_kind: Kind | None = None) -> list[Finding]:
    options = RoadOptions(run_kind=run_kind)
    return [finding for finding in examine(path, options).findings if finding.status is Status.REFUSE]


def setting(*path: str, to: Any) -> Set:
    def change(config: dict[str, Any]) -> None:
        held = config
        for name in path[:-1]:
            held = held.setdefault(name, {})
        held[path[-1]] = to

    return change


LINEAR = {"rope_type": "linear", "rope_theta": 10000.0}
UNUSABLE: list[tuple[str, Set, str]] = [
    ("llama", setting("rope_parameters", to={**LINEAR, "factor": 0.0}), "rope_parameters.factor = 0.0"),
    ("llama", setting("rope_parameters", to={**LINEAR, "factor": -2.0}), "rope_parameters.factor = -2.0"),
    ("llama", setting("rms_norm_eps", to=1e10), "rms_norm_eps = 10000000000.0"),
    ("gemma2", setting("final_logit_softcapping", to=0.0), "final_logit_softcapping = 0.0"),
    ("gemma2", setting("query_pre_attn_scalar", to=0), "query_pre_attn_scalar = 0"),
    ("qwen3_moe", setting("num_experts_per_tok", to=0), "num_experts_per_tok = 0 with num_experts = 4"),
    ("qwen3_moe", setting("num_experts_per_tok", to=5), "num_experts_per_tok = 5 with num_experts = 4"),
    ("deepseek_v3", setting("topk_group", to=2), "topk_group = 2 with n_group = 1"),
    ("gemma2", setting("layer_types", to=["full_attention"]), "layer_types = 1 words with num_hidden_layers = 2"),
]
IN_USE: list[tuple[str, Set]] = [
    ("llama", setting("rope_parameters", to={**LINEAR, "factor": 8.0})),
    ("llama", setting("rms_norm_eps", to=0.0)),
    ("gemma2", setting("final_logit_softcapping", to=None)),
    ("gemma2", setting("attn_logit_softcapping", to=50.0)),
    ("qwen3_moe", setting("num_experts_per_tok", to=4)),
    ("gemma2", setting("layer_types", to=["full_attention", "sliding_attention"])),
    ("doge", setting("num_experts", to=4)),
    ("llama", setting("quantization_config", to=None)),
    ("llama", setting("quantization_config", to={"quant_method": "bitnet", "linear_class": "autobitlinear"})),
]


@pytest.mark.planted_defect(CONFIG_ID)
@pytest.mark.parametrize(("model_type", "change", "line"), UNUSABLE, ids=[line for *_, line in UNUSABLE])
def test_a_value_that_no_model_can_compute_with_is_refused(
    tmp_path: Path, model_type: str, change: Set, line: str
) -> None:
    found = refusals(with_config(save_tiny(tmp_path / "model", model_type), change))
    assert [(finding.id, finding.found) for finding in found] == [(CONFIG_ID, line)]
    assert f"--set {line.partition(' ')[0]}=VALUE" in str(found[0].remedy)


@pytest.mark.parametrize(("model_type", "change"), IN_USE)
def test_a_value_in_use_is_accepted(tmp_path: Path, model_type: str, change: Set) -> None:
    assert refusals(with_config(save_tiny(tmp_path / "model", model_type), change)) == []


@pytest.mark.planted_defect(CONFIG_ID)
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_plain_weights_that_are_called_quantised_are_refused(tmp_path: Path, method: str) -> None:
    change = setting("quantization_config", to={"quant_method": method, "bits": 4})
    (finding,) = refusals(with_config(save_tiny(tmp_path / "model", "llama"), change))
    assert finding.id == CONFIG_ID
    assert f"quantised by {method}, and every one of them is stored plain" in finding.message
    assert "--set quantization_config=null" in str(finding.remedy)


CONTRADICTIONS: list[tuple[str, Set, str]] = [
    ("gpt2", setting("num_attention_heads", to=2), "n_head 4 and num_attention_heads 2, which are one field"),
    (
        "llama",
        setting("rope_scaling", to={"rope_type": "linear", "factor": 8.0}),
        "rope_scaling.factor 8.0 and rope_parameters.factor nothing",
    ),
    ("llama", setting("rope_theta", to=5e5), "rope_theta 500000.0 and rope_parameters.rope_theta 10000.0"),
    (
        "llama",
        setting("rope_parameters", to={"type": "linear", "rope_type": "default", "rope_theta": 1e4, "factor": 2.0}),
        "rope_parameters.rope_type default and rope_parameters.type linear",
    ),
]


@pytest.mark.planted_defect(CONFIG_ID)
@pytest.mark.parametrize(("model_type", "change", "line"), CONTRADICTIONS, ids=[line for *_, line in CONTRADICTIONS])
def test_two_records_of_one_fact_that_differ_are_refused(
    tmp_path: Path, model_type: str, change: Set, line: str
) -> None:
    found = refusals(with_config(save_tiny(tmp_path / "model", model_type), change))
    assert f"config.json says {line}" in [finding.found for finding in found]


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 96}


def seq2seq(path: Path, model_type: str, **options: Any) -> Path:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **T5, **options)).save_pretrained(path)
    return path


@pytest.mark.planted_defect(CONFIG_ID)
def test_an_activation_that_is_not_the_one_it_follows_from_is_refused(tmp_path: Path) -> None:
    path = with_config(seq2seq(tmp_path / "t5", "t5"), setting("dense_act_fn", to="silu"))
    assert "config.json says feed_forward_proj relu and dense_act_fn silu" in [each.found for each in refusals(path)]


@pytest.mark.parametrize(
    ("model_type", "projection"), [("t5", "relu"), ("t5", "gated-gelu"), ("switch_transformers", "gated-gelu")]
)
def test_an_activation_as_its_class_saves_it_is_accepted(tmp_path: Path, model_type: str, projection: str) -> None:
    path = seq2seq(tmp_path / "model", model_type, feed_forward_proj=projection)
    assert CONFIG_ID not in [each.id for each in refusals(path)]


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("gpt2", setting("num_attention_heads", to=4)),
        ("llama", setting("rope_theta", to=10000.0)),
        ("llama", setting("rope_scaling", to=None)),
        ("llama", setting("rope_scaling", to={"rope_type": "default"})),
        (
            "phi3",
            setting(
                "rope_parameters",
                to={
                    "type": "su",
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                },
            ),
        ),
    ],
)
def test_two_records_that_say_the_same_are_accepted(tmp_path: Path, model_type: str, change: Set) -> None:
    assert refusals(with_config(save_tiny(tmp_path / "model", model_type), change)) == []


DECODER_ID = "FALSIFY-APR-PRETRAIN-ARCH-007"


@pytest.mark.planted_defect(DECODER_ID)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("is_causal", to=False), "is_causal = false"),
        (setting("use_bidirectional_attention", to=True), "use_bidirectional_attention = true"),
    ],
)
def test_a_model_that_attends_to_later_tokens_trains_no_next_token(tmp_path: Path, change: Set, words: str) -> None:
    path = with_config(save_tiny(tmp_path / "model", "llama"), change)
    (finding,) = refusals(path, Kind.DECODER)
    assert (finding.id, finding.found) == (DECODER_ID, words)
    said = [each for each in examine(path, RoadOptions(run_kind=None)).findings if each.id == DECODER_ID]
    assert [each.status for each in said] == [Status.UNCHECKED]


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize(
    "change",
    [
        setting("architectures", to="Qwen2ForCausalLM"),
        setting("architectures", to={"0": "BertForMaskedLM"}),
        setting("architectures", to=[None, "BertForMaskedLM"]),
        setting("architectures", to=[["BertForMaskedLM"]]),
        setting("model_type", to=["bert"]),
        setting("model_type", to=7),
    ],
)
def test_a_stamp_that_is_no_name_is_no_consent(tmp_path: Path, change: Set) -> None:
    assert "INV-INIT-ARCH-MATCH-001" in {
        finding.id for finding in refusals(with_config(save_tiny(tmp_path / "model", "llama"), change))
    }


@pytest.mark.parametrize("change", [setting("architectures", to=None), setting("architectures", to=[])])
def test_a_stamp_that_is_absent_is_absent(tmp_path: Path, change: Set) -> None:
    assert refusals(with_config(save_tiny(tmp_path / "model", "llama"), change)) == []
