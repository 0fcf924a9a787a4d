"""A tied tensor stored under another of its names: known where the config ties, refused where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from apr.identity.config import resolve_config
from apr.identity.evidence import model_tensors
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from tests.identity.headers import CLASS, MODEL_TYPE, SLUG, headers, stored_shapes

LLAMA = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "vocab_size": 101}
LLAMA_STAMPS = [(CLASS, "LlamaForCausalLM"), (MODEL_TYPE, "llama")]
BART = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 101}
CASES: dict[str, tuple[str, str, dict[str, Any], str, str]] = {
    "llama": ("LlamaForCausalLM", "llama", {**LLAMA, "tie_word_embeddings": True}, "model.embed_tokens", "lm_head"),
    "gemma, tied by default": ("GemmaForCausalLM", "gemma", LLAMA, "model.embed_tokens", "lm_head"),
    "gpt2": ("GPT2LMHeadModel", "gpt2", {"n_embd": 48, "n_layer": 2, "vocab_size": 101}, "transformer.wte", "lm_head"),
    "bart": ("BartForConditionalGeneration", "bart", BART, "model.shared", "lm_head"),
    "bart, by its encoder": (
        "BartForConditionalGeneration",
        "bart",
        BART,
        "model.shared",
        "model.encoder.embed_tokens",
    ),
}


def saved_as(class_name: str, kept: str, other: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes = stored_shapes(class_name, **config)
    return {f"{other}.weight" if name == f"{kept}.weight" else name: shape for name, shape in shapes.items()}


@pytest.mark.parametrize("case", CASES)
def test_either_name_of_a_tie_makes_the_file_complete(case: str) -> None:
    class_name, model_type, config, kept, other = CASES[case]
    shapes = saved_as(class_name, kept, other, config)
    stamps = [(CLASS, class_name), (MODEL_TYPE, model_type)]
    verdict = give_verdict(headers(shapes, stamps, config=config))
    usual = give_verdict(headers(stored_shapes(class_name, **config), stamps, config=config))
    assert verdict.kind is usual.kind, verdict.reasons
    assert [each.architecture for each in verdict.evidence.candidates] == [
        each.architecture for each in usual.evidence.candidates
    ]
    assert verdict.claim.architecture is not None
    assert resolve_config(headers(shapes, stamps, config=config), verdict.claim.architecture).conflicts == ()


def test_a_config_that_contradicts_the_stored_name_is_a_conflict_all_the_same() -> None:
    config = {**LLAMA, "tie_word_embeddings": True}
    shapes = saved_as("LlamaForCausalLM", "model.embed_tokens", "lm_head", config)
    checkpoint = headers(shapes, LLAMA_STAMPS, config={**config, "vocab_size": 99})
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    assert resolve_config(checkpoint, architecture).conflicts


def test_two_names_of_one_tensor_are_asked_about_with_the_claim_that_stands() -> None:
    shapes = saved_as("GemmaForCausalLM", "model.embed_tokens", "lm_head", LLAMA)
    tied, untied = headers(shapes, [(SLUG, "gemma")]), headers(shapes, [(SLUG, "llama")])
    assert "model.embed_tokens.weight" in model_tensors(tied).shapes
    assert "model.embed_tokens.weight" not in model_tensors(untied).shapes
    assert "model.embed_tokens.weight" in model_tensors(tied).shapes


UNTIED: dict[str, tuple[dict[str, Any], str]] = {
    "the config says untied": ({**LLAMA, "tie_word_embeddings": False}, "LlamaForCausalLM"),
    "the class unties by default": (LLAMA, "LlamaForCausalLM"),
    "the config unties a class that ties": ({**LLAMA, "tie_word_embeddings": False}, "GemmaForCausalLM"),
}


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("case", UNTIED)
def test_an_untied_model_without_its_embedding_stays_incomplete(case: str) -> None:
    config, class_name = UNTIED[case]
    shapes = saved_as(class_name, "model.embed_tokens", "lm_head", {**LLAMA, "tie_word_embeddings": True})
    assert "lm_head.weight" in shapes
    verdict = give_verdict(headers(shapes, [(CLASS, class_name)], config=config))
    assert verdict.kind is VerdictKind.CONTRADICTION, verdict.reasons


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_tied_model_without_any_name_of_its_embedding_stays_incomplete() -> None:
    config = {**LLAMA, "tie_word_embeddings": True}
    shapes = stored_shapes("LlamaForCausalLM", **config)
    del shapes["model.embed_tokens.weight"]
    assert give_verdict(headers(shapes, LLAMA_STAMPS, config=config)).kind is VerdictKind.CONTRADICTION


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_under_a_false_label_the_head_stays_the_head_of_what_the_file_is() -> None:
    shapes = stored_shapes("LlamaForCausalLM", **LLAMA)
    verdict = give_verdict(headers(shapes, [(CLASS, "GPT2LMHeadModel"), (MODEL_TYPE, "gpt2")]))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert "llama" in [each.architecture.model_type for each in verdict.evidence.candidates]
