"""The verdict on the founding case, on name twins, on flags, ties and wrappers."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.identity.atlas import load_atlas
from apr.identity.types import Architecture, Verdict, VerdictKind
from apr.identity.verdict import SAME_COMPUTATION, give_verdict, stamp_recipe
from tests.identity.headers import CLASS, MODEL_TYPE, QWEN2_HALF_BILLION, SLUG, Shapes, headers, stored_shapes

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 101,
}
BIASES = "model.layers.{0–23}.self_attn.{q,k,v}_proj.bias"


def test_the_founding_file_contradicts_its_stamp() -> None:
    shapes = stored_shapes("Qwen2ForCausalLM", **QWEN2_HALF_BILLION)
    assert len(shapes) == 290
    verdict = give_verdict(headers(shapes, [(SLUG, "LlamaForCausalLM")]))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert str(verdict.evidence.candidates[0].architecture) == "qwen2 (Qwen2ForCausalLM)"
    assert f"72 tensors {BIASES} are known to qwen2, not to llama" in verdict.reasons
    runner_up = verdict.evidence.runner_up
    assert runner_up is not None
    assert runner_up.architecture.model_type == "llama"
    assert (runner_up.unfilled, runner_up.unused) == ((), (BIASES,))


@pytest.mark.parametrize("stamp", ["qwen2", "Qwen2ForCausalLM"])
def test_the_honest_file_is_accepted_with_its_dimensions(stamp: str) -> None:
    shapes = stored_shapes("Qwen2ForCausalLM", **QWEN2_HALF_BILLION)
    verdict = give_verdict(headers(shapes, [(SLUG, stamp)]))
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS)
    best = verdict.evidence.candidates[0]
    assert best.architecture.class_name == "Qwen2ForCausalLM"
    solved = {name: QWEN2_HALF_BILLION[name] for name in best.dimensions if name in QWEN2_HALF_BILLION}
    assert {name: best.dimensions[name] for name in solved} == solved
    assert {"hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"} <= set(solved)


def test_a_llama_is_ambiguous_among_its_twins() -> None:
    verdict = give_verdict(headers(stored_shapes("LlamaForCausalLM", **SMALL), [(MODEL_TYPE, "llama")]))
    assert verdict.kind is VerdictKind.AMBIGUOUS
    types = [candidate.architecture.model_type for candidate in verdict.evidence.candidates]
    assert types[0] == "llama"
    assert {"mistral", "gemma", "granite", "smollm3"} <= set(types)
    assert "mistral" in verdict.reasons[0]


def test_the_claimed_twin_stands_first() -> None:
    verdict = give_verdict(headers(stored_shapes("LlamaForCausalLM", **SMALL), [(MODEL_TYPE, "granite")]))
    assert verdict.kind is VerdictKind.AMBIGUOUS
    assert verdict.evidence.candidates[0].architecture.model_type == "granite"


def test_an_honest_biased_llama_is_not_refused() -> None:
    shapes = stored_shapes("LlamaForCausalLM", **SMALL, attention_bias=True, mlp_bias=True)
    assert "model.layers.0.self_attn.o_proj.bias" in shapes
    verdict = give_verdict(headers(shapes, [(MODEL_TYPE, "llama"), (CLASS, "LlamaForCausalLM")]))
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS)


def test_biases_without_an_output_bias_are_no_llama_even_if_its_config_allows_biases() -> None:
    shapes = stored_shapes("Qwen2ForCausalLM", **SMALL)
    config = {**SMALL, "attention_bias": True}
    verdict = give_verdict(headers(shapes, [(MODEL_TYPE, "llama")], config=config))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert any("self_attn.o_proj.bias, which the file lacks" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_are_both_whole(tied: bool) -> None:
    shapes = stored_shapes("Qwen2ForCausalLM", **SMALL, tie_word_embeddings=tied)
    assert ("lm_head.weight" in shapes) is not tied
    assert give_verdict(headers(shapes, [(MODEL_TYPE, "qwen2")])).kind is not VerdictKind.CONTRADICTION


def test_a_zero_byte_head_means_tied() -> None:
    shapes = {**stored_shapes("Qwen2ForCausalLM", **SMALL), "lm_head.weight": (101, 48)}
    verdict = give_verdict(headers(shapes, [(SLUG, "qwen2")], placeholders=["lm_head.weight"]))
    assert verdict.kind is not VerdictKind.CONTRADICTION
    assert any("zero bytes" in reason for reason in verdict.reasons)


def test_without_a_claim_the_evidence_suggests() -> None:
    verdict = give_verdict(headers(stored_shapes("Qwen2ForCausalLM", **SMALL)))
    assert verdict.kind is VerdictKind.UNKNOWN
    assert "the checkpoint does not say what it is" in verdict.reasons
    assert "its tensors suggest qwen2 (Qwen2ForCausalLM)" in verdict.reasons


def test_among_twins_the_stamp_that_fits_decides_what_is_suggested() -> None:
    shapes = stored_shapes("LlamaForCausalLM", **SMALL)
    verdict = give_verdict(headers(shapes, [(CLASS, "Qwen2ForCausalLM"), (MODEL_TYPE, "granite")]))
    assert verdict.kind is VerdictKind.UNKNOWN
    assert "its tensors suggest granite (GraniteForCausalLM), as model_type says" in verdict.reasons
    assert "architectures[0] says 'Qwen2ForCausalLM', but model_type says 'granite'" in verdict.reasons


def test_a_class_the_atlas_only_names_is_left_to_the_class_itself() -> None:
    named = next(each for each in load_atlas().architectures if not load_atlas().entry(each).templates)
    shapes = {"strange.0.weight": (3, 4), "strange.1.weight": (5,)}
    verdict = give_verdict(headers(shapes, [(CLASS, named.class_name), (MODEL_TYPE, named.model_type)]))
    assert verdict.kind is VerdictKind.AMBIGUOUS
    assert "the class itself has to be built" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("_orig_mod.", "torch.compile"),
        ("module.", "DataParallel"),
        ("module._orig_mod.", "torch.compile"),
        ("_fsdp_wrapped_module.", "FSDP"),
        ("base_model.model.", "PEFT"),
        ("model.", "without the prefix `model.`"),
    ],
)
def test_a_wrapper_prefix_is_named(prefix: str, words: str) -> None:
    shapes = {prefix + name: shape for name, shape in stored_shapes("Qwen2ForCausalLM", **SMALL).items()}
    verdict = give_verdict(headers(shapes, [(MODEL_TYPE, "qwen2")]))
    assert verdict.kind is VerdictKind.CONTRADICTION
    text = "\n".join(verdict.reasons)
    assert words in text
    assert "they are the tensors of qwen2" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "model.layers.1.mlp.up_proj.weight"),
        ({"model.layers.1.mlp.up_proj.weight": (80, 49)}, "hidden_size would be 48"),
        ({"model.layers.1.self_attn.surprise.weight": (4, 4)}, "surprise"),
        ({"model.layers.3.input_layernorm.weight": (48,)}, "model.layers.3"),
        ({"model.norm.weight": (1, 48)}, "model.norm.weight"),
        ({"model.layers.1.self_attn.q_proj.bias": (1, 48)}, "model.layers.1.self_attn.q_proj.bias: [1, 48]"),
        ({"model.layers.1.mlp.up_proj.weight": (48, 80)}, "would be"),
        ({"model.layers.01.mlp.up_proj.weight": (80, 48)}, "model.layers.01"),
        ({"model.layers.7000000.input_layernorm.weight": (48,)}, "input_layernorm.weight, which the file lacks"),
        ({"model.layers.70000000000.input_layernorm.weight": (48,)}, "70000000000"),
    ],
)
def test_one_wrong_tensor_is_found(change: dict[str, tuple[int, ...] | None], words: str) -> None:
    shapes = {**stored_shapes("Qwen2ForCausalLM", **SMALL), **change}
    kept = {name: shape for name, shape in shapes.items() if shape is not None}
    verdict = give_verdict(headers(kept, [(MODEL_TYPE, "qwen2")]))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert words in "\n".join(verdict.reasons)


def test_container_internal_tensors_are_not_the_models() -> None:
    extra = {"__training__.embed_optimizer.m": (7,), "__apr__.tokenizer/tokenizer.json": (9,)}
    shapes = {**stored_shapes("Qwen2ForCausalLM", **SMALL), **extra}
    assert give_verdict(headers(shapes, [(MODEL_TYPE, "qwen2")])).kind is not VerdictKind.CONTRADICTION


@pytest.mark.parametrize(
    ("class_name", "model_type", "config", "buffers"),
    [
        ("LlamaForCausalLM", "llama", SMALL, ["model.layers.{}.self_attn.rotary_emb.inv_freq"]),
        (
            "GPT2LMHeadModel",
            "gpt2",
            {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 101, "n_positions": 31},
            ["transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias"],
        ),
        (
            "GPTNeoXForCausalLM",
            "gpt_neox",
            {name: value for name, value in SMALL.items() if name != "num_key_value_heads"},
            ["gpt_neox.layers.{}.attention.bias", "gpt_neox.layers.{}.attention.rotary_emb.inv_freq"],
        ),
    ],
)
def test_buffers_that_older_versions_saved_are_allowed_by_rule(
    class_name: str, model_type: str, config: dict[str, int], buffers: list[str]
) -> None:
    shapes = stored_shapes(class_name, **config)
    shapes |= {buffer.format(layer): (1, 1, 31, 31) for buffer in buffers for layer in range(3)}
    verdict = give_verdict(headers(shapes, [(MODEL_TYPE, model_type)]))
    assert verdict.kind is not VerdictKind.CONTRADICTION


def test_the_recipe_is_the_exact_command() -> None:
    verdict = give_verdict(headers(stored_shapes("Qwen2ForCausalLM", **SMALL), [(SLUG, "llama")]))
    recipe = stamp_recipe(Path("run 1/e.apr"), verdict.evidence.candidates[0].architecture, Path("fixed.apr"))
    assert recipe == (
        "apr stamp 'run 1/e.apr' --architecture qwen2 --hf-architecture Qwen2ForCausalLM --hf-model-type qwen2 "
        "-o fixed.apr"
    )


@pytest.mark.parametrize("group", [sorted(group) for group in SAME_COMPUTATION], ids="-".join)
def test_model_types_said_to_compute_the_same_give_equal_logits(group: list[str]) -> None:
    """Equal weights, equal config fields, equal logits, bit for bit."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model

    first = tiny_model(group[0])
    fields = {"rope_parameters": first.config.rope_parameters, "rms_norm_eps": first.config.rms_norm_eps}
    tokens = torch.arange(60)[None] * 7 % VOCABULARY
    for model_type in group[1:]:
        config = AutoConfig.for_model(model_type, **{**CONFIGS[group[0]], **fields, "head_dim": 16})
        config.tie_word_embeddings = first.config.tie_word_embeddings
        other = AutoModelForCausalLM.from_config(config).eval()
        other.load_state_dict(first.state_dict())
        with torch.inference_mode():
            assert torch.equal(first(tokens).logits, other(tokens).logits)


XMOD = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "vocab_size": 101,
    "max_position_embeddings": 40,
}


def xmod_verdict(shapes: Shapes, **config: object) -> Verdict:
    stamps = [(CLASS, "XmodForMaskedLM"), (MODEL_TYPE, "xmod")]
    return give_verdict(headers(shapes, stamps, config={"model_type": "xmod", **XMOD, **config}))


def test_a_config_value_of_unknown_effect_leaves_the_claim_standing_and_never_as_a_match() -> None:
    """XMOD without languages has no adapters: what is left are RoBERTa's tensors, under XMOD's own names."""
    verdict = xmod_verdict(stored_shapes("RobertaForMaskedLM", **XMOD), languages=[])
    assert verdict.kind is VerdictKind.AMBIGUOUS
    assert "does not say exactly what xmod (XmodForMaskedLM) holds under this config" in verdict.reasons[0]
    assert "roberta" in verdict.reasons[0]


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("RobertaForMaskedLM", {}),
        ("RobertaForMaskedLM", {"languages": ["en_XX"]}),
        ("BertForMaskedLM", {"languages": []}),
    ],
)
def test_it_stands_under_no_other_value_and_over_no_name_that_the_class_does_not_have(
    class_name: str, config: dict[str, object]
) -> None:
    assert xmod_verdict(stored_shapes(class_name, **XMOD), **config).kind is VerdictKind.CONTRADICTION


KNOWN_BY_NAMES = "ernie4_5_moe"
INCOMPLETE = ("LlamaForCausalLM", "GraniteForCausalLM", "SmolLM3ForCausalLM", "Ernie4_5ForCausalLM")


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("class_name", INCOMPLETE)
def test_a_file_that_lost_a_tensor_is_an_incomplete_one_of_its_class_and_none_of_a_class_known_by_names(
    class_name: str,
) -> None:
    whole = stored_shapes(class_name, **SMALL)
    by_names = {architecture.model_type for architecture in load_atlas().architectures if not _is_exact(architecture)}
    assert KNOWN_BY_NAMES in by_names
    for lost in (name for name in whole if ".1." in name):
        shapes = {name: shape for name, shape in whole.items() if name != lost}
        for stamps in ([(CLASS, class_name)], [], [(MODEL_TYPE, KNOWN_BY_NAMES)]):
            verdict = give_verdict(headers(shapes, stamps))
            shown = {candidate.architecture.model_type for candidate in verdict.evidence.candidates}
            assert not shown & by_names
            assert verdict.kind is (VerdictKind.CONTRADICTION if stamps else VerdictKind.UNKNOWN)
            closest = verdict.evidence.runner_up
            assert closest is not None
            assert (closest.unfilled, closest.unused) == ((lost,), ())


def test_a_class_known_by_names_is_recognised_by_names_of_its_own() -> None:
    own = ("mlp.experts.0.up_proj.weight", "mlp.gate.weight", "mlp.moe_statics.e_score_correction_bias")
    shapes = {**stored_shapes("LlamaForCausalLM", **SMALL), **{f"model.layers.1.{name}": (4, 4) for name in own}}
    verdict = give_verdict(headers(shapes, [(MODEL_TYPE, KNOWN_BY_NAMES)]))
    assert verdict.kind is not VerdictKind.CONTRADICTION


def _is_exact(architecture: Architecture) -> bool:
    return load_atlas().entry(architecture).is_exact
