"""Models of the nine families as the zoo saves them: recognised, fully expected, solved, and never mistaken."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from apr.formats.base import Checkpoint
from apr.formats.registry import open_checkpoint
from apr.identity.atlas import expected_tensors, load_atlas
from apr.identity.config import resolve_config
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from tests.identity.headers import CLASS, MODEL_TYPE, headers

_ROTARY = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_PLAIN = {name: value for name, value in _ROTARY.items() if name != "num_key_value_heads"}
_GPT2 = {"vocab_size": 101, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 37}
_OPT = {
    **{name: value for name, value in _PLAIN.items() if name != "intermediate_size"},
    "ffn_dim": 80,
    "word_embed_proj_dim": 48,
}
_STATE = {"vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3}
_UNTIED, _TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}

VARIANTS: Mapping[str, tuple[str, dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "llama": (
        "LlamaForCausalLM",
        _ROTARY,
        (_UNTIED, _TIED, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 10}, {"num_key_value_heads": 4}),
    ),
    "mistral": ("MistralForCausalLM", _ROTARY, (_UNTIED, {"head_dim": 10, "num_key_value_heads": 1})),
    "gemma": ("GemmaForCausalLM", {**_ROTARY, "head_dim": 10}, (_TIED, {"attention_bias": True})),
    "granite": ("GraniteForCausalLM", _ROTARY, (_UNTIED, {"attention_bias": True, **_TIED})),
    "smollm3": ("SmolLM3ForCausalLM", _ROTARY, (_TIED, {"attention_bias": True, **_UNTIED})),
    "qwen2": ("Qwen2ForCausalLM", _ROTARY, (_UNTIED, _TIED, {"num_key_value_heads": 4}, {"use_sliding_window": True})),
    "qwen3": ("Qwen3ForCausalLM", {**_ROTARY, "head_dim": 14}, (_UNTIED, _TIED, {"attention_bias": True})),
    "gpt2": ("GPT2LMHeadModel", _GPT2, (_TIED, _UNTIED, {"n_inner": 60}, {"add_cross_attention": True})),
    "gpt_neox": ("GPTNeoXForCausalLM", _PLAIN, (_UNTIED, _TIED, {"attention_bias": False})),
    "opt": (
        "OPTForCausalLM",
        _OPT,
        (
            _TIED,
            _UNTIED,
            {"word_embed_proj_dim": 24},
            {"do_layer_norm_before": False},
            {"enable_bias": False, "layer_norm_elementwise_affine": False},
        ),
    ),
    "bert": ("BertForMaskedLM", {**_PLAIN, "type_vocab_size": 3}, (_TIED, _UNTIED)),
    "mamba": ("MambaForCausalLM", {**_STATE, "state_size": 5}, (_TIED, _UNTIED, {"use_bias": True, "expand": 3})),
    "rwkv": ("RwkvForCausalLM", _STATE, (_UNTIED, {"attention_hidden_size": 36, "intermediate_size": 70})),
}

CASES = [(model_type, at) for model_type, (_, _, variants) in VARIANTS.items() for at in range(len(variants))]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, int], Path]:
    """Every variant, saved by the zoo's own `save_pretrained`."""
    import transformers

    from apr.loading.quiet import quiet_zoo

    root = tmp_path_factory.mktemp("families")
    paths = {}
    for model_type, at in CASES:
        class_name, common, variants = VARIANTS[model_type]
        model_class = getattr(transformers, class_name)
        paths[model_type, at] = root / f"{model_type}-{at}"
        with quiet_zoo():
            model_class(model_class.config_class(**{**common, **variants[at]})).save_pretrained(paths[model_type, at])
    return paths


@pytest.fixture
def checkpoint(saved: Mapping[tuple[str, int], Path], request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(saved[request.param])


@pytest.mark.parametrize("checkpoint", CASES, indirect=True, ids=str)
def test_a_saved_model_is_recognised_as_itself_or_its_twins(checkpoint: Checkpoint) -> None:
    verdict = give_verdict(checkpoint)
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS), verdict.reasons
    assert verdict.evidence.candidates[0].architecture == verdict.claim.architecture


@pytest.mark.parametrize("checkpoint", CASES, indirect=True, ids=str)
def test_the_expected_tensors_are_the_saved_ones(checkpoint: Checkpoint) -> None:
    architecture = give_verdict(checkpoint).claim.architecture
    assert architecture is not None
    config = resolve_config(checkpoint, architecture)
    assert (config.missing, config.conflicts) == ((), ())
    wanted = expected_tensors(load_atlas().entry(architecture), config.values)
    assert wanted is not None
    required = {name: each.shape for name, each in wanted.items() if each.tied_to is None and not each.is_optional}
    assert required == {name: entry.shape for name, entry in checkpoint.tensors.items()}
    for each in wanted.values():
        assert each.tied_to is None or wanted[each.tied_to].shape == each.shape


@pytest.mark.parametrize("checkpoint", CASES, indirect=True, ids=str)
def test_solved_dimensions_equal_the_config(checkpoint: Checkpoint) -> None:
    import transformers

    best = give_verdict(checkpoint).evidence.candidates[0]
    config = transformers.AutoConfig.from_pretrained(checkpoint.path)
    assert {"num_hidden_layers", "vocab_size", "hidden_size"} <= set(best.dimensions)
    for name, value in best.dimensions.items():
        assert getattr(config, name) in (value, None), name


@pytest.mark.parametrize(("own", "other"), list(permutations(VARIANTS, 2)))
def test_a_wrong_label_is_a_contradiction_or_a_declared_twin(
    saved: Mapping[tuple[str, int], Path], own: str, other: str
) -> None:
    for at in range(len(VARIANTS[own][2])):
        honest = open_checkpoint(saved[own, at])
        shapes = {name: entry.shape for name, entry in honest.tensors.items()}
        verdict = give_verdict(headers(shapes, [(MODEL_TYPE, other), (CLASS, VARIANTS[other][0])]))
        types = [candidate.architecture.model_type for candidate in verdict.evidence.candidates]
        assert own in types
        if other in types:
            assert verdict.kind is VerdictKind.AMBIGUOUS
            assert own in verdict.reasons[0]
        else:
            assert verdict.kind is VerdictKind.CONTRADICTION
            assert {own, other}.isdisjoint(_LLAMA_LIKE) or not {own, other} <= _LLAMA_LIKE or "bias" in str(shapes)


_LLAMA_LIKE = {"llama", "mistral", "gemma", "granite", "smollm3"}
