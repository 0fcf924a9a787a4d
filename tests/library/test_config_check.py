"""The config a model was built with against the recorded one: what changes the mathematics, and what a run may set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import apr
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import save_tiny

CONFIG_ID = "INV-INIT-CONFIG-001"
SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
# Class, its config, and a keyword of `from_pretrained` that makes the loaded model compute something else.
CHANGED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a shorter window": ("MistralForCausalLM", {"num_key_value_heads": 2, "sliding_window": 64}, {"sliding_window": 4}),
    "a window of some layers": (
        "Gemma2ForCausalLM",
        {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64},
        {"sliding_window": 4},
    ),
    "scaled embeddings": ("BigBirdForMaskedLM", {"attention_type": "original_full"}, {"rescale_embeddings": True}),
    "positions from another id": ("RobertaForMaskedLM", {"pad_token_id": 1}, {"pad_token_id": 0}),
    "a causal mask": ("BertForMaskedLM", {}, {"is_decoder": True}),
    "limited time steps": (
        "Mamba2ForCausalLM",
        {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
        {"time_step_limit": (0.0, 0.5)},
    ),
    "another mask token": (
        "EsmForMaskedLM",
        {"token_dropout": True, "mask_token_id": 32, "pad_token_id": 1},
        {"mask_token_id": 31},
    ),
}


def saved(path: Path, class_name: str, config: dict[str, Any]) -> Any:
    """The class, of which a small model lies in `path`."""
    import torch
    import transformers

    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**{**SMALL, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    model.save_pretrained(path)
    return model_class


@pytest.mark.planted_defect(CONFIG_ID)
@pytest.mark.parametrize("change", CHANGED)
def test_a_config_that_changes_the_mathematics_is_refused(tmp_path: Path, change: str) -> None:
    class_name, config, option = CHANGED[change]
    model_class = saved(tmp_path, class_name, config)
    apr.verify_loaded(model_class.from_pretrained(tmp_path), tmp_path)
    error = refusal_of(lambda: apr.verify_loaded(model_class.from_pretrained(tmp_path, **option), tmp_path))
    assert {finding["id"] for finding in error.findings} == {CONFIG_ID}
    assert next(iter(option)) in str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pad_token_id", 0),
        ("eos_token_id", 7),
        ("use_cache", False),
        ("output_hidden_states", True),
        ("attention_dropout", 0.1),
        ("initializer_range", 0.5),
        ("num_labels", 3),
        ("problem_type", "regression"),
        ("max_position_embeddings", 4096),
        ("keys_to_ignore_at_inference", ["past_key_values"]),
        ("task_specific_params", {"summarization": {"length_penalty": 2.0}}),
        ("name_of_my_experiment", "third try"),
    ],
)
def test_what_a_run_sets_for_itself_is_let_through(qwen2: Path, field: str, value: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(qwen2)
    setattr(model.config, field, value)
    apr.verify_loaded(model, qwen2)


@pytest.mark.planted_defect(CONFIG_ID)
def test_a_context_length_counts_where_the_rotary_table_is_made_from_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    path = save_tiny(tmp_path / "dynamic", "llama", rope_parameters=scaling)
    apr.verify_loaded(AutoModelForCausalLM.from_pretrained(path), path)
    longer = AutoModelForCausalLM.from_pretrained(path, max_position_embeddings=64)
    assert CONFIG_ID in refusing_ids(lambda: apr.verify_loaded(longer, path))


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("DebertaV2ForSequenceClassification", {}),
        ("DebertaV2ForSequenceClassification", {"relative_attention": True, "position_buckets": 32}),
        ("NomicBertForMaskedLM", {}),
    ],
)
def test_a_field_that_only_the_atlas_knows_is_no_difference(
    tmp_path: Path, class_name: str, config: dict[str, Any]
) -> None:
    model_class = saved(tmp_path, class_name, config)
    apr.verify_loaded(model_class.from_pretrained(tmp_path), tmp_path)
