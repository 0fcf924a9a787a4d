"""GGUF architectures by their tensors: each model as itself, relabelled as every other, cut, and with too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.identity.config import resolve_config
from apr.identity.types import Kind, Origin, VerdictKind
from apr.identity.verdict import give_verdict, stamp_recipe
from tests.identity.gguf_models import (
    CONTEXT,
    EXPERTS,
    HEADS,
    INNER,
    KV_HEADS,
    LAYERS,
    MODELS,
    ROWS,
    SLUGS,
    WIDTH,
    Model,
    headers_of,
    metadata_of,
    model_of,
    name_of,
)
from tests.identity.headers import MODEL_TYPE, headers

each_model = pytest.mark.parametrize("model", MODELS, ids=name_of)
BIASES = "blk.{0–1}.attn_{q,k,v}.bias"


@each_model
def test_every_model_is_recognised_as_itself(model: Model) -> None:
    verdict = give_verdict(headers_of(model.shapes, model.slug))
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS)
    assert verdict.evidence.candidates[0].architecture.model_type == model.slug


@each_model
@pytest.mark.parametrize("label", SLUGS)
def test_a_model_under_another_label_is_contradicted_or_a_declared_twin(model: Model, label: str) -> None:
    verdict = give_verdict(headers_of(model.shapes, label))
    if label == model.slug:
        assert verdict.kind is not VerdictKind.CONTRADICTION
    elif label in model.twins:
        assert verdict.kind is VerdictKind.AMBIGUOUS
    else:
        assert verdict.kind is VerdictKind.CONTRADICTION
        shown = [candidate.architecture.model_type for candidate in verdict.evidence.candidates]
        assert model.slug in shown


def test_a_qwen2_that_says_llama_is_named_with_the_tensors_llama_never_asks_for() -> None:
    verdict = give_verdict(headers_of(model_of("qwen2").shapes, "llama"))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert verdict.reasons[0] == "the stamps say llama (GGUF), but the tensors show qwen2 (GGUF)"
    assert f"6 tensors {BIASES} are known to qwen2, not to llama" in verdict.reasons
    checkpoint = headers_of(model_of("qwen2").shapes, "llama")
    recipe = stamp_recipe(checkpoint.path, verdict.evidence.candidates[0].architecture, Path("m.qwen2.gguf"))
    assert recipe == "apr stamp model.gguf --architecture qwen2 -o m.qwen2.gguf"


def test_a_qwen2_that_lost_its_biases_is_contradicted() -> None:
    shapes = {name: shape for name, shape in model_of("qwen2").shapes.items() if not name.endswith("bias")}
    verdict = give_verdict(headers_of(shapes, "qwen2"))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert f"qwen2 wants 6 tensors {BIASES}, which the file lacks" in verdict.reasons


@each_model
def test_a_tensor_too_many_is_refused_by_name(model: Model) -> None:
    verdict = give_verdict(headers_of({**model.shapes, "blk.0.attn_extra.weight": (3, 3)}, model.slug))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert f"1 tensor blk.0.attn_extra.weight is unknown to {model.slug}" in verdict.reasons


@each_model
def test_any_tensor_of_one_layer_that_is_missing_is_refused_by_name(model: Model) -> None:
    for name in [each for each in model.shapes if each.startswith("blk.1.")]:
        shapes = {other: shape for other, shape in model.shapes.items() if other != name}
        verdict = give_verdict(headers_of(shapes, model.slug))
        assert verdict.kind is VerdictKind.CONTRADICTION, name
        assert verdict.evidence.runner_up is not None
        assert name in verdict.evidence.runner_up.unfilled, name


@each_model
def test_a_layer_that_is_missing_in_the_middle_is_refused(model: Model) -> None:
    moved = {name.replace("blk.1.", "blk.2."): shape for name, shape in model.shapes.items()}
    assert give_verdict(headers_of(moved, model.slug)).kind is VerdictKind.CONTRADICTION


@each_model
def test_the_ends_of_a_model_are_required(model: Model) -> None:
    for name in ("token_embd.weight", "output_norm.weight"):
        if name in model.shapes:
            shapes = {other: shape for other, shape in model.shapes.items() if other != name}
            assert give_verdict(headers_of(shapes, model.slug)).kind is VerdictKind.CONTRADICTION


def test_what_is_optional_is_legal() -> None:
    llama = model_of("llama").shapes
    tied = {name: shape for name, shape in llama.items() if name != "output.weight"}
    scaled = {**llama, "rope_freqs.weight": (8,)}
    biased = {**llama}
    for layer in range(LAYERS):
        for letter, rows in (("q", WIDTH), ("k", KV_HEADS * 16), ("v", KV_HEADS * 16), ("output", WIDTH)):
            biased[f"blk.{layer}.attn_{letter}.bias"] = (rows,)
    for shapes in (tied, scaled, biased):
        verdict = give_verdict(headers_of(shapes, "llama"))
        assert verdict.kind is VerdictKind.AMBIGUOUS
        assert verdict.evidence.candidates[0].architecture.model_type == "llama"


def test_scales_of_quantised_tensors_say_nothing_of_the_architecture() -> None:
    shapes = {**model_of("llama").shapes, "blk.0.attn_q.scale": (1,), "blk.0.attn_q.input_scale": (1,)}
    assert give_verdict(headers_of(shapes, "llama")).kind is VerdictKind.AMBIGUOUS
    alone = {**model_of("llama").shapes, "blk.0.attn_other.scale": (1,)}
    assert give_verdict(headers_of(alone, "llama")).kind is VerdictKind.CONTRADICTION


def test_a_bias_in_some_layers_only_is_refused() -> None:
    shapes = dict(model_of("qwen2").shapes)
    del shapes["blk.1.attn_k.bias"]
    verdict = give_verdict(headers_of(shapes, "qwen2"))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert "qwen2 wants 1 tensor blk.1.attn_k.bias, which the file lacks" in verdict.reasons


def test_shapes_that_fit_no_dimensions_are_refused() -> None:
    shapes = {**model_of("qwen3").shapes, "blk.0.ffn_up.weight": (INNER + 1, WIDTH)}
    verdict = give_verdict(headers_of(shapes, "qwen3"))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert any("intermediate_size" in reason for reason in verdict.reasons)


@each_model
def test_the_dimensions_are_solved_from_the_shapes(model: Model) -> None:
    shown = dict(give_verdict(headers_of(model.shapes, model.slug)).evidence.candidates[0].dimensions)
    expected = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": ROWS, "intermediate_size": INNER}
    expected |= {"max_position_embeddings": CONTEXT, "num_experts": EXPERTS, "num_attention_heads": HEADS}
    assert {name: shown[name] for name in expected if name in shown}.items() <= expected.items()
    assert {"hidden_size", "num_hidden_layers", "vocab_size"} <= shown.keys()


def test_a_stamp_may_be_spelled_as_hugging_face_spells_it() -> None:
    for word, slug in (("Qwen2ForCausalLM", "qwen2"), ("qwen3_moe", "qwen3moe"), ("MixtralForCausalLM", "llama")):
        assert give_verdict(headers_of(model_of(slug).shapes, word)).claim.architecture is not None
        assert give_verdict(headers_of(model_of(slug).shapes, word)).claim.architecture.model_type == slug  # type: ignore[union-attr]


def test_an_unknown_architecture_stays_unknown_with_what_the_tensors_suggest() -> None:
    verdict = give_verdict(headers_of(model_of("mamba").shapes, "brandnew"))
    assert verdict.kind is VerdictKind.UNKNOWN
    assert "general.architecture says 'brandnew', which is not in the atlas" in verdict.reasons
    assert "its tensors suggest mamba (GGUF)" in verdict.reasons


def test_names_of_hugging_face_in_a_gguf_file_are_told_as_such() -> None:
    verdict = give_verdict(headers_of({"model.embed_tokens.weight": (ROWS, WIDTH)}, "llama"))
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert any("the names are not those of llama.cpp" in reason for reason in verdict.reasons)


def test_names_of_llama_cpp_in_another_container_are_told_as_such() -> None:
    checkpoint = headers(model_of("qwen2").shapes, [(MODEL_TYPE, "qwen2")])
    verdict = give_verdict(checkpoint)
    assert verdict.kind is VerdictKind.CONTRADICTION
    assert "the names are those of llama.cpp; as such they are the tensors of qwen2 (GGUF)" in verdict.reasons


def test_encoders_are_told_apart() -> None:
    assert give_verdict(headers_of(model_of("bert").shapes, "bert")).claim.architecture.kind is Kind.ENCODER  # type: ignore[union-attr]


@each_model
def test_an_honest_file_has_its_config_facts(model: Model) -> None:
    checkpoint = headers_of(model.shapes, model.slug, metadata_of(model))
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    config = resolve_config(checkpoint, architecture)
    assert (config.missing, config.conflicts) == ((), ())
    assert config.values["hidden_size"] == WIDTH
    assert config.values["vocab_size"] == ROWS


WRONG_KEYS = (
    ("qwen2", "embedding_length", WIDTH + 1, "the keys say hidden_size 65, the tensors show 64"),
    ("qwen2", "block_count", LAYERS + 1, "the keys say num_hidden_layers 3, the tensors show 2"),
    ("qwen2", "feed_forward_length", INNER + 1, "the keys say intermediate_size 81, the tensors show 80"),
    ("qwen2", "attention.head_count_kv", KV_HEADS + 1, "32 does not fit"),
    ("qwen2", "attention.head_count", 3, "the keys say num_attention_heads 3, which does not divide hidden_size 64"),
    ("qwen3", "attention.head_count", HEADS + 1, "the keys say num_attention_heads 5, the tensors show 4"),
    ("qwen3moe", "expert_count", EXPERTS + 1, "the keys say num_experts 7, the tensors show 6"),
    ("gpt2", "context_length", CONTEXT + 1, "the keys say max_position_embeddings 49, the tensors show 48"),
    ("mamba", "ssm.state_size", 9, "the keys say ssm_state_size 9, the tensors show 6"),
    ("deepseek2", "attention.kv_lora_rank", 21, "the keys say kv_lora_rank 21, the tensors show 20"),
)


@pytest.mark.parametrize(("slug", "key", "value", "conflict"), WRONG_KEYS)
def test_a_key_that_the_tensors_contradict_is_a_conflict(slug: str, key: str, value: int, conflict: str) -> None:
    model = model_of(slug)
    metadata = {**metadata_of(model), f"{slug}.{key}": value}
    checkpoint = headers_of(model.shapes, slug, metadata)
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    conflicts = resolve_config(checkpoint, architecture).conflicts
    assert any(conflict in line for line in conflicts), conflicts


def test_a_vocabulary_of_another_size_than_the_embedding_is_a_conflict() -> None:
    model = model_of("qwen2")
    checkpoint = headers_of(model.shapes, "qwen2", metadata_of(model), rows=ROWS + 1)
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    assert "the keys say vocab_size 97, the tensors show 96" in resolve_config(checkpoint, architecture).conflicts


@pytest.mark.parametrize(
    "key", ["rope.freq_base", "attention.layer_norm_rms_epsilon", "attention.head_count", "context_length"]
)
def test_a_key_without_which_the_mathematics_is_not_known_is_missing(key: str) -> None:
    model = model_of("llama")
    metadata = {name: value for name, value in metadata_of(model).items() if name != f"llama.{key}"}
    checkpoint = headers_of(model.shapes, "llama", metadata)
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    assert resolve_config(checkpoint, architecture).missing == (f"llama.{key}",)


def test_a_base_that_the_converter_never_writes_is_llama_cpp_s_own_and_told_as_such() -> None:
    model = model_of("gemma")
    checkpoint = headers_of(model.shapes, "gemma", metadata_of(model))
    config = resolve_config(checkpoint, give_verdict(checkpoint).evidence.candidates[0].architecture)
    assert config.values["rope_theta"] == 10000.0
    assert config.origins["rope_theta"] is Origin.CLASS_DEFAULT


def test_a_value_for_each_layer_counts_where_all_share_it() -> None:
    model = model_of("qwen2")
    for layers, missed in (([KV_HEADS] * LAYERS, ()), ([KV_HEADS + 1] * LAYERS, ("32 does not fit",))):
        metadata = {**metadata_of(model), "qwen2.attention.head_count_kv": layers}
        checkpoint = headers_of(model.shapes, "qwen2", metadata)
        config = resolve_config(checkpoint, give_verdict(checkpoint).evidence.candidates[0].architecture)
        assert all(any(each in line for line in config.conflicts) for each in missed)
        assert bool(config.conflicts) is bool(missed)
    metadata = {**metadata_of(model), "qwen2.attention.head_count_kv": [2, 4]}
    checkpoint = headers_of(model.shapes, "qwen2", metadata)
    config = resolve_config(checkpoint, give_verdict(checkpoint).evidence.candidates[0].architecture)
    assert config.values["num_key_value_heads_by_layer"] == [2, 4]
    assert config.conflicts == ()


def test_keys_written_for_another_architecture_are_one_conflict() -> None:
    model = model_of("gemma")
    checkpoint = headers_of(model.shapes, "llama", metadata_of(model))
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    config = resolve_config(checkpoint, architecture)
    assert config.missing == ()
    assert config.conflicts == ("the keys are written for gemma (gemma.block_count), general.architecture says llama",)
