"""Every stamp is read once into the closed vocabulary; nothing is guessed from a prefix and nothing is ignored."""

from __future__ import annotations

import pytest

from apr.formats.base import StampKey
from apr.identity.claim import read_claim, read_stamp
from tests.identity.headers import CLASS, HF_CLASS, HF_MODEL_TYPE, MODEL_TYPE, SLUG, headers


@pytest.mark.parametrize(
    ("value", "class_name"),
    [
        ("Qwen2ForCausalLM", "Qwen2ForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("Qwen2", "Qwen2ForCausalLM"),
        ("qwen2.5", "Qwen2ForCausalLM"),
        ("QWEN-2.5", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("LLaMA", "LlamaForCausalLM"),
        ("llama-3.1", "LlamaForCausalLM"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
        ("gpt-neox", "GPTNeoXForCausalLM"),
        ("gpt_neox", "GPTNeoXForCausalLM"),
        ("gptneox", "GPTNeoXForCausalLM"),
        ("GPT2", "GPT2LMHeadModel"),
        ("gpt-2", "GPT2LMHeadModel"),
        ("opt", "OPTForCausalLM"),
        ("bert", "BertForMaskedLM"),
        ("mamba", "MambaForCausalLM"),
        ("rwkv", "RwkvForCausalLM"),
        ("mistral", "MistralForCausalLM"),
    ],
)
def test_spellings(value: str, class_name: str) -> None:
    meanings = read_stamp(value)
    assert meanings, value
    assert meanings[0].class_name == class_name


@pytest.mark.parametrize(
    "value", ["qwen", "qwen2foo", "Qwen2ForCausalLMWithTricks", "FSDPLlamaForCausalLM", "llamaish", "my.remote.Code"]
)
def test_a_prefix_is_not_a_name(value: str) -> None:
    assert read_stamp(value) == ()
    claim = read_claim(headers({}, [(SLUG, value)]))
    assert claim.architecture is None
    assert [stamp.value for stamp in claim.unknown] == [value]


@pytest.mark.parametrize("value", ["", "Auto", "unknown", "Unknown", "model", "N/A", "none", "TBD"])
def test_a_placeholder_claims_nothing(value: str) -> None:
    claim = read_claim(headers({}, [(SLUG, value)]))
    assert (claim.architecture, claim.readings, claim.unknown, claim.disagreements) == (None, (), (), ())


def test_a_slug_and_a_class_of_one_model_type_agree() -> None:
    claim = read_claim(
        headers({}, [(SLUG, "qwen2"), (HF_CLASS, "Qwen2ForCausalLM"), (HF_MODEL_TYPE, "qwen2"), (MODEL_TYPE, "qwen2")])
    )
    assert str(claim.architecture) == "qwen2 (Qwen2ForCausalLM)"
    assert claim.disagreements == ()


def test_a_class_settles_which_head_a_model_type_means() -> None:
    claim = read_claim(headers({}, [(MODEL_TYPE, "bert"), (CLASS, "BertModel")]))
    assert claim.architecture is not None
    assert claim.architecture.class_name == "BertModel"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((SLUG, "LlamaForCausalLM"), (HF_MODEL_TYPE, "qwen2")),
        ((CLASS, "Qwen2ForCausalLM"), (MODEL_TYPE, "llama")),
        ((SLUG, "mistral"), (HF_CLASS, "LlamaForCausalLM")),
        ((CLASS, "BertModel"), (SLUG, "gpt2")),
    ],
)
def test_stamps_that_cannot_both_be_true(first: tuple[StampKey, str], second: tuple[StampKey, str]) -> None:
    claim = read_claim(headers({}, [first, second]))
    assert claim.architecture is None
    assert [(one.value, two.value) for one, two in claim.disagreements] == [(first[1], second[1])]


def test_every_disagreeing_pair_is_reported() -> None:
    claim = read_claim(headers({}, [(SLUG, "llama"), (HF_CLASS, "Qwen2ForCausalLM"), (HF_MODEL_TYPE, "gpt2")]))
    assert len(claim.disagreements) == 3


def test_an_unknown_stamp_beside_a_known_one_is_not_ignored() -> None:
    claim = read_claim(headers({}, [(CLASS, "Qwen2ForCausalLM"), (MODEL_TYPE, "qwen2_custom")]))
    assert claim.architecture is None
    assert [stamp.value for stamp in claim.unknown] == ["qwen2_custom"]
