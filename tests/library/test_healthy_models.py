"""Healthy models that look unusual to a check: proven as they are, and still refused when something did change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import apr
import apr.hf
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import CONFIGS, relabel, save_tiny, tiny_model

AUTO_CLASSIFIER = transformers.AutoModelForSequenceClassification
BUFFERS = "INV-INIT-BUFFERS-001"
RECEIPT = "INV-INIT-RECEIPT-001"
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "rope_theta": 10000.0}
SCALINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": (
        "phi3",
        {
            "rope_parameters": {**LONG, "original_max_position_embeddings": 16},
            "original_max_position_embeddings": 16,
        },
    ),
    "dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
            "max_position_embeddings": 16,
        },
    ),
}


def load(path: Path, model_class: Any = transformers.AutoModelForCausalLM, **options: Any) -> Any:
    return model_class.from_pretrained(path, **options)


@pytest.mark.planted_defect(BUFFERS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_model_that_has_seen_a_long_sequence_is_proven(tmp_path: Path, scaling: str) -> None:
    model_type, options = SCALINGS[scaling]
    path = save_tiny(tmp_path / model_type, model_type, **options)
    model = load(path)
    rotary = model.model.rotary_emb
    before = rotary.inv_freq.clone()
    with torch.no_grad():
        model(input_ids=torch.arange(48)[None])
    assert not torch.equal(rotary.inv_freq, before)
    apr.verify_loaded(model, path)
    rotary.inv_freq[1] *= 1.01
    assert refusing_ids(lambda: apr.verify_loaded(model, path)) == {BUFFERS}


@pytest.mark.planted_defect(BUFFERS)
def test_a_rotary_table_may_be_widened_with_the_model_and_not_rounded(qwen2: Path) -> None:
    apr.verify_loaded(load(qwen2).double(), qwen2)
    alone = load(qwen2)
    alone.model.rotary_emb.double()
    assert refusing_ids(lambda: apr.verify_loaded(alone, qwen2)) == {BUFFERS}
    rounded = load(qwen2).double()
    rounded.model.rotary_emb.inv_freq = rounded.model.rotary_emb.inv_freq.to(torch.bfloat16).double()
    assert refusing_ids(lambda: apr.verify_loaded(rounded, qwen2)) == {BUFFERS}


@pytest.mark.parametrize(
    ("class_name", "model_type"), [("LlamaForCausalLM", "internlm3"), ("GPT2LMHeadModel", "gpt-sw3")]
)
def test_a_model_type_that_shares_the_class_of_another_is_proven(
    tmp_path: Path, class_name: str, model_type: str
) -> None:
    path = save_tiny(tmp_path / "model", "llama" if class_name.startswith("Llama") else "gpt2")
    relabel(path, model_type, class_name)
    apr.verify_loaded(load(path, getattr(transformers, class_name)), path)


class Same(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
    """A subclass that adds nothing."""


class WithValueHead(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.value = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.planted_defect(RECEIPT)
@pytest.mark.parametrize("own_class", [Same, WithValueHead])
def test_a_subclass_of_ones_own_is_proven_by_its_tensors_and_config(tmp_path: Path, own_class: Any) -> None:
    torch.manual_seed(0)
    own_class(transformers.Qwen2Config(**CONFIGS["qwen2"])).save_pretrained(tmp_path)
    model = apr.hf.from_pretrained(own_class, tmp_path)
    apr.verify_loaded(model, tmp_path)
    assert apr.load_verified(own_class, tmp_path)[1].tensors_written == len(model.state_dict())
    model.config.rms_norm_eps = 1e-3
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {"INV-INIT-CONFIG-001"}
    model = load(tmp_path, own_class)
    model.lm_head.reset_parameters()
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_class_of_ones_own_under_a_known_name_is_held_to_that_name(qwen2: Path, tmp_path: Path) -> None:
    import shutil

    copy = relabel(Path(shutil.copytree(qwen2, tmp_path / "copy")), "llama", "LlamaForCausalLM")
    own = type("LlamaForCausalLM", (transformers.Qwen2ForCausalLM,), {"__module__": __name__})
    config = transformers.Qwen2Config(**CONFIGS["qwen2"])
    model = own(config)
    model.load_state_dict(tiny_model("qwen2").state_dict())
    assert "INV-INIT-ARCH-MATCH-001" in refusing_ids(lambda: apr.verify_loaded(model, copy))


CONSTANTS = {
    "a mask of ones": torch.ones(4, 4, dtype=torch.bool),
    "equal indices": torch.full((4, 4), 7),
    "a table of zeros": torch.zeros(4, 4),
    "a mask that ends in zeros": torch.triu(torch.ones(64, 64)) * torch.arange(64)[:, None].lt(32),
}


class WithBuffer(torch.nn.Module):
    def __init__(self, buffer: torch.Tensor) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("extra", buffer.clone())


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_saved_buffer_may_hold_a_constant_and_a_weight_may_not(tmp_path: Path, constant: str) -> None:
    module = WithBuffer(CONSTANTS[constant])
    path = tmp_path / "own.safetensors"
    save_file(module.state_dict(), path)
    apr.verify_loaded(module, path)
    apr.load_verified(WithBuffer(torch.zeros_like(CONSTANTS[constant])), path)
    torch.nn.init.zeros_(module.linear.weight)
    save_file(module.state_dict(), path)
    assert refusing_ids(lambda: apr.verify_loaded(module, path)) == {"INV-INIT-VALUES-001"}
    apr.verify_loaded(module, path, allowed_tensors={"linear.weight": "the residual branch starts closed"})


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_a_buffer_that_is_not_finite_is_refused_until_it_is_named(tmp_path: Path) -> None:
    module = WithBuffer(torch.full((4, 4), float("-inf")).triu(1))
    path = tmp_path / "own.safetensors"
    save_file(module.state_dict(), path)
    assert refusing_ids(lambda: apr.verify_loaded(module, path)) == {"INV-INIT-VALUES-001"}
    apr.verify_loaded(module, path, allowed_tensors={"extra": "a mask to be added"})


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
def test_a_head_of_another_size_is_a_matter_of_naming_it(tmp_path: Path) -> None:
    config = transformers.BertConfig(**{**CONFIGS["llama"], "num_key_value_heads": None}, num_labels=3)
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    error = refusal_of(lambda: apr.hf.from_pretrained(AUTO_CLASSIFIER, tmp_path, **options))
    assert error.invariant == "INV-INIT-SHAPE-001"
    assert "allowed_tensors={'classifier.bias': 'REASON'}" in str(error)
    named = {"classifier.weight": "five classes", "classifier.bias": "five classes"}
    model = apr.hf.from_pretrained(AUTO_CLASSIFIER, tmp_path, **options, allowed_tensors=named)
    assert tuple(model.classifier.weight.shape) == (5, 64)
    model.bert.pooler.dense.reset_parameters()
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path, allowed_tensors=named)) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect(RECEIPT)
@pytest.mark.parametrize("size", [328, 312])
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_vocabulary_of_another_size_keeps_the_rows_it_has(tmp_path: Path, is_tied: bool, size: int) -> None:
    path = save_tiny(tmp_path / "model", "qwen2", tie_word_embeddings=is_tied)
    model = load(path)
    model.resize_token_embeddings(size)
    assert "INV-INIT-SHAPE-001" in refusing_ids(lambda: apr.verify_loaded(model, path))
    named = {"model.embed_tokens.weight": "more tokens", "lm_head.weight": "more tokens"}
    apr.verify_loaded(model, path, allowed_tensors=named)
    model.get_output_embeddings().weight.data[7, 0] += 0.01
    assert refusing_ids(lambda: apr.verify_loaded(model, path, allowed_tensors=named)) == {RECEIPT}
