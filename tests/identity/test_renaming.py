"""Files named as the base model names its tensors: complete where the head is tied, and never completed otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from apr.identity.atlas import load_atlas
from apr.identity.config import resolve_config
from apr.identity.evidence import model_tensors
from apr.identity.renaming import prefix_to_add
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from tests.identity.headers import CLASS, MODEL_TYPE, SLUG, Shapes, headers, stored_shapes

GPT2 = {"n_embd": 48, "n_layer": 3, "vocab_size": 101, "n_positions": 64}
LLAMA = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "vocab_size": 101}
GPT2_STAMPS = [(CLASS, "GPT2LMHeadModel"), (MODEL_TYPE, "gpt2")]


def bare(class_name: str, prefix: str, **config: Any) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in stored_shapes(class_name, **config).items()}


def test_the_published_gpt2_names_are_those_of_gpt2() -> None:
    shapes = bare("GPT2LMHeadModel", "transformer.", **GPT2) | {f"h.{at}.attn.bias": (1, 1, 64, 64) for at in range(3)}
    checkpoint = headers(shapes, GPT2_STAMPS, config=GPT2)
    verdict = give_verdict(checkpoint)
    assert verdict.kind is VerdictKind.MATCH, verdict.reasons
    assert verdict.claim.architecture is not None
    assert any("`transformer.`" in reason for reason in verdict.reasons)
    assert dict(verdict.evidence.candidates[0].dimensions)["hidden_size"] == 48
    assert resolve_config(checkpoint, verdict.claim.architecture).conflicts == ()


def test_dimensions_solved_from_bare_names_contradict_a_wrong_config() -> None:
    shapes = bare("GPT2LMHeadModel", "transformer.", **GPT2)
    checkpoint = headers(shapes, GPT2_STAMPS, config={**GPT2, "vocab_size": 99})
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    assert resolve_config(checkpoint, architecture).conflicts


def test_bare_names_of_a_family_with_twins_are_ambiguous() -> None:
    shapes = bare("LlamaForCausalLM", "model.", **LLAMA, tie_word_embeddings=True)
    assert give_verdict(headers(shapes, [(CLASS, "LlamaForCausalLM")])).kind is VerdictKind.AMBIGUOUS


def test_a_model_type_alone_means_the_head_that_the_tensors_show() -> None:
    shapes = stored_shapes("BertForTokenClassification", hidden_size=48, num_hidden_layers=2, id2label={"0": "a"})
    verdict = give_verdict(headers(shapes, [(SLUG, "bert")]))
    assert str(verdict.claim.architecture) == "bert (BertForTokenClassification)"


INCOMPLETE = {
    "a tensor is absent": (GPT2_STAMPS, {"h.1.ln_1.bias": None}),
    "a stranger is there": (GPT2_STAMPS, {"stranger": (3,)}),
    "one name has the prefix": (GPT2_STAMPS, {"wpe.weight": None, "transformer.wpe.weight": (64, 48)}),
    "another family": ([(CLASS, "LlamaForCausalLM")], {}),
    "a head of its own": ([(CLASS, "GPT2ForSequenceClassification")], {}),
}


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("case", INCOMPLETE)
def test_bare_names_do_not_complete_what_is_incomplete(case: str) -> None:
    stamps, changes = INCOMPLETE[case]
    shapes: Shapes = {
        name: shape
        for name, shape in {**bare("GPT2LMHeadModel", "transformer.", **GPT2), **changes}.items()  # type: ignore[dict-item]
        if shape is not None
    }
    checkpoint = headers(shapes, stamps)
    assert give_verdict(checkpoint).kind is VerdictKind.CONTRADICTION
    entry = load_atlas().find_class(stamps[0][1])
    assert entry is not None
    assert prefix_to_add(entry, model_tensors(checkpoint)) == ""
