"""What a config is resolved from: recorded, typed, shown by the tensors, or defined by the class; never invented."""

from __future__ import annotations

from typing import Any

import pytest

from apr.identity.atlas import load_atlas
from apr.identity.config import resolve_config
from apr.identity.shapes import UnevaluableError
from apr.identity.types import Origin, ResolvedConfig
from tests.identity.headers import headers, stored_shapes

DIMENSIONS = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 101,
}
TYPED = {**DIMENSIONS, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 512}


def resolved(
    class_name: str,
    shapes: dict[str, tuple[int, ...]],
    *,
    config: dict[str, Any] | None = None,
    typed: dict[str, Any] | None = None,
) -> ResolvedConfig:
    entry = load_atlas().find_class(class_name)
    assert entry is not None
    return resolve_config(headers(shapes, config=config, typed=typed), entry.architecture)


def qwen2_shapes(**overrides: Any) -> dict[str, tuple[int, ...]]:
    return stored_shapes("Qwen2ForCausalLM", **{**DIMENSIONS, "tie_word_embeddings": True, **overrides})


def test_a_typed_file_of_the_founding_kind_resolves() -> None:
    config = resolved("Qwen2ForCausalLM", qwen2_shapes(), typed=TYPED)
    assert (config.missing, config.conflicts) == ((), ())
    assert config.values["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}
    assert config.values["tie_word_embeddings"] is True
    assert config.origins["tie_word_embeddings"] is Origin.TENSORS
    assert config.origins["num_key_value_heads"] is Origin.TYPED
    assert config.origins["hidden_act"] is Origin.CLASS_DEFAULT
    assert config.values["head_dim"] == 12
    assert config.values["model_type"] == "qwen2"


def test_a_stored_head_means_untied() -> None:
    config = resolved("Qwen2ForCausalLM", qwen2_shapes(tie_word_embeddings=False), typed=TYPED)
    assert config.values["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("absent", "missing"),
    [
        ("rope_theta", "rope_theta"),
        ("rms_norm_eps", "rms_norm_eps"),
        ("num_attention_heads", "num_attention_heads"),
        ("num_key_value_heads", "num_key_value_heads"),
    ],
)
def test_a_fact_that_no_tensor_shows_is_never_defaulted(absent: str, missing: str) -> None:
    typed = {name: value for name, value in TYPED.items() if name != absent}
    assert missing in resolved("Qwen2ForCausalLM", qwen2_shapes(), typed=typed).missing


@pytest.mark.parametrize(
    ("class_name", "missing"),
    [
        (
            "GraniteForCausalLM",
            {"embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"},
        ),
        ("MistralForCausalLM", {"sliding_window"}),
        ("LlamaForCausalLM", set()),
    ],
)
def test_constants_of_the_class_are_missing_from_typed_metadata(class_name: str, missing: set[str]) -> None:
    shapes = stored_shapes(class_name, **DIMENSIONS)
    assert set(resolved(class_name, shapes, typed=TYPED).missing) == missing


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 4), ("hidden_size", 50), ("vocab_size", 100), ("intermediate_size", 81)],
)
def test_typed_dimensions_that_contradict_the_tensors(name: str, value: int) -> None:
    config = resolved("Qwen2ForCausalLM", qwen2_shapes(), typed={**TYPED, name: value})
    assert f"the metadata says {name} {value}, the tensors show {DIMENSIONS[name]}" in config.conflicts


def test_a_typed_head_split_that_cannot_be() -> None:
    assert resolved("Qwen2ForCausalLM", qwen2_shapes(), typed={**TYPED, "num_key_value_heads": 5}).conflicts


def test_an_embedded_config_and_typed_keys_must_agree() -> None:
    config = {**DIMENSIONS, "model_type": "qwen2", "rope_theta": 1e4, "tie_word_embeddings": True}
    found = resolved("Qwen2ForCausalLM", qwen2_shapes(), config=config, typed=TYPED)
    assert "the metadata says rope_theta 1000000.0, config.json says 10000.0" in found.conflicts


def test_absent_fields_of_a_recorded_config_take_the_class_default() -> None:
    config = {**DIMENSIONS, "model_type": "qwen2", "tie_word_embeddings": True}
    found = resolved("Qwen2ForCausalLM", qwen2_shapes(), config=config)
    assert (found.missing, found.conflicts) == ((), ())
    assert found.values["rms_norm_eps"] == 1e-6
    assert found.origins["rms_norm_eps"] is Origin.CLASS_DEFAULT
    assert found.origins["hidden_size"] is Origin.RECORDED


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
        ),
    ],
)
def test_rope_is_read_in_the_spelling_of_transformers_4_and_5(recorded: Any, expected: Any) -> None:
    config = {**DIMENSIONS, "model_type": "llama", **recorded}
    found = resolved("LlamaForCausalLM", stored_shapes("LlamaForCausalLM", **DIMENSIONS), config=config)
    assert found.values["rope_parameters"] == expected
    assert "rope_theta" not in found.values


def test_two_rope_bases_are_a_conflict() -> None:
    config = {**DIMENSIONS, "model_type": "llama", "rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}
    found = resolved("LlamaForCausalLM", stored_shapes("LlamaForCausalLM", **DIMENSIONS), config=config)
    assert any("rope_theta" in conflict for conflict in found.conflicts)


def test_a_recorded_config_that_contradicts_the_tensors() -> None:
    config = {**DIMENSIONS, "model_type": "llama", "num_hidden_layers": 2}
    found = resolved("LlamaForCausalLM", stored_shapes("LlamaForCausalLM", **DIMENSIONS), config=config)
    assert "config.json says num_hidden_layers 2, the tensors show 3" in found.conflicts


def test_a_relabelled_config_resolves_for_the_asked_architecture() -> None:
    config = {
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": 101,
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "auto_map": {"AutoModel": "evil.Model"},
    }
    found = resolved("GPTNeoXForCausalLM", {}, config=config)
    assert found.values["hidden_size"] == 48
    assert found.values["num_hidden_layers"] == 3
    assert found.values["model_type"] == "gpt_neox"
    assert "auto_map" not in found.values


@pytest.mark.parametrize("hostile", ["24", 24.5, -1, True, [24]])
def test_typed_dimensions_of_a_wrong_type_are_refused(hostile: object) -> None:
    with pytest.raises(UnevaluableError, match="num_hidden_layers"):
        resolved("Qwen2ForCausalLM", qwen2_shapes(), typed={**TYPED, "num_hidden_layers": hostile})


@pytest.mark.parametrize(
    "class_name", ["Qwen2ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM"]
)
def test_the_config_class_accepts_what_was_resolved(class_name: str) -> None:
    from transformers import AutoConfig

    entry = load_atlas().find_class(class_name)
    assert entry is not None
    common = {own: alias for alias, own in entry.aliases.items()}
    small = {name: value for name, value in DIMENSIONS.items() if entry.aliases.get(name, name) in entry.defaults}
    assert common is not None
    shapes = stored_shapes(class_name, **small)
    values = dict(resolved(class_name, shapes, config={**small, "model_type": entry.architecture.model_type}).values)
    built = AutoConfig.for_model(values.pop("model_type"), **values)
    assert built.hidden_size == 48
    assert built.num_hidden_layers == 3
