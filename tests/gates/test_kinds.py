"""Encoders, encoder-decoders, classifiers, reward models, bare models: accepted as what they are, never pretrained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.gates.road import RoadOptions, deepen, examine, try_load
from apr.identity.types import Kind, VerdictKind
from apr.loading.quiet import quiet_zoo

DECODER_ONLY = "FALSIFY-APR-PRETRAIN-ARCH-007"
BERT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
MODERN = {**BERT, **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)}
LLAMA = {**BERT, "num_key_value_heads": 2, "pad_token_id": 0}
DISTIL = {"vocab_size": 320, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
T5 = {
    "vocab_size": 320,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
}
BART = {
    "vocab_size": 320,
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
DEBERTA = {
    **BERT,
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
GPT2 = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}

CASES: dict[str, tuple[str, dict[str, Any], Kind]] = {
    "masked": ("BertForMaskedLM", BERT, Kind.ENCODER),
    "bare encoder": ("BertModel", BERT, Kind.ENCODER),
    "pretraining heads": ("BertForPreTraining", BERT, Kind.ENCODER),
    "narrow feed-forward": ("DistilBertForMaskedLM", DISTIL, Kind.ENCODER),
    "narrow embeddings": ("ElectraForPreTraining", {**BERT, "embedding_size": 32}, Kind.ENCODER),
    "shared layers": ("AlbertForMaskedLM", {**BERT, "embedding_size": 32}, Kind.ENCODER),
    "encoder of T5": ("T5EncoderModel", T5, Kind.ENCODER),
    "labels": ("RobertaForSequenceClassification", {**BERT, "num_labels": 3}, Kind.CLASSIFICATION),
    "token labels": ("XLMRobertaForTokenClassification", {**BERT, "num_labels": 5}, Kind.CLASSIFICATION),
    "spans": ("DistilBertForQuestionAnswering", DISTIL, Kind.CLASSIFICATION),
    "modern": ("ModernBertForSequenceClassification", {**MODERN, "classifier_pooling": "mean"}, Kind.CLASSIFICATION),
    "disentangled reward": ("DebertaV2ForSequenceClassification", {**DEBERTA, "num_labels": 1}, Kind.CLASSIFICATION),
    "reward": ("LlamaForSequenceClassification", {**LLAMA, "num_labels": 1}, Kind.CLASSIFICATION),
    "usual labels": ("Qwen2ForSequenceClassification", LLAMA, Kind.CLASSIFICATION),
    "decoder's token labels": ("Qwen3ForTokenClassification", {**LLAMA, "num_labels": 4}, Kind.CLASSIFICATION),
    "gpt2 labels": ("GPT2ForSequenceClassification", {**GPT2, "num_labels": 4}, Kind.CLASSIFICATION),
    "bart labels": ("BartForSequenceClassification", BART, Kind.CLASSIFICATION),
    "t5": ("T5ForConditionalGeneration", T5, Kind.SEQ2SEQ),
    "gated t5": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, Kind.SEQ2SEQ),
    "mt5": ("MT5ForConditionalGeneration", {**T5, "num_decoder_layers": None}, Kind.SEQ2SEQ),
    "umt5": ("UMT5ForConditionalGeneration", T5, Kind.SEQ2SEQ),
    "bart": ("BartForConditionalGeneration", BART, Kind.SEQ2SEQ),
    "bare bart": ("BartModel", BART, Kind.SEQ2SEQ),
    "mbart": ("MBartForConditionalGeneration", BART, Kind.SEQ2SEQ),
    "pegasus": ("PegasusForConditionalGeneration", BART, Kind.SEQ2SEQ),
    "marian": ("MarianMTModel", {**BART, "decoder_vocab_size": 320}, Kind.SEQ2SEQ),
    "bare decoder": ("LlamaModel", LLAMA, Kind.BASE),
}


def save(path: Path, class_name: str, values: dict[str, Any], change: Callable[[Any], None] | None = None) -> Path:
    """A small model of the class with uneven norms and biases, saved by the zoo."""
    import torch
    import transformers

    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    with quiet_zoo(), torch.no_grad():
        model = model_class(model_class.config_class(**values)).eval()
        for parameter in model.parameters():
            # Uneven, as trained tensors are: fresh ones are refused by their values.
            parameter.mul_(1 + torch.rand(parameter.shape[:1] + (1,) * (parameter.dim() - 1)))
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        if change is not None:
            change(model)
        model.save_pretrained(path)
    return path


def refusing(path: Path, **options: Any) -> dict[str, str]:
    return {finding.id: finding.message for finding in examine(path, RoadOptions(**options)).refusals}


@pytest.mark.planted_defect(DECODER_ONLY)
@pytest.mark.parametrize("case", CASES)
def test_what_is_no_decoder_is_accepted_as_what_it_is_and_not_pretrained(case: str, tmp_path: Path) -> None:
    class_name, values, kind = CASES[case]
    path = save(tmp_path / "model", class_name, values)
    examination = examine(path, RoadOptions(run_kind=None))
    verdict = examination.facts.verdict
    assert examination.is_accepted, examination.refusals
    assert verdict is not None
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS)
    assert verdict.claim.architecture is not None
    assert (verdict.claim.architecture.class_name, verdict.claim.architecture.kind) == (class_name, kind)
    assert examination.facts.plan is not None, examination.facts.plan_note
    assert examination.facts.plan.target.origin == "atlas"
    assert list(refusing(path, run_kind=Kind.DECODER)) == [DECODER_ONLY]
    model, loaded = try_load(examination)
    assert loaded.is_accepted, loaded.refusals
    assert type(model).__name__ == class_name


@pytest.mark.parametrize("case", ["bart", "t5", "labels", "narrow embeddings", "disentangled reward"])
def test_dimensions_solved_from_shapes_are_those_of_the_config(case: str, tmp_path: Path) -> None:
    class_name, values, _ = CASES[case]
    verdict = examine(save(tmp_path / "model", class_name, values)).facts.verdict
    assert verdict is not None
    found = verdict.evidence.candidates[0].dimensions
    common = {"d_model": "hidden_size", "d_kv": "head_dim", "num_layers": "num_hidden_layers"}
    common |= {"encoder_layers": "num_hidden_layers", "encoder_attention_heads": "num_attention_heads"}
    wanted = {common.get(name, name): value for name, value in values.items()}
    assert {name: value for name, value in found.items() if name in wanted} == {
        name: wanted[name] for name in found if name in wanted
    }
    assert len(found) >= 4


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    from safetensors.numpy import load_file, save_file

    state = load_file(path / "model.safetensors")
    change(state)
    save_file(state, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize(
    ("claimed", "change"),
    [
        ("LlamaForSequenceClassification", lambda state: state.pop("score.weight")),
        ("LlamaForSequenceClassification", lambda state: state.update({"score.bias": state["model.norm.weight"][:1]})),
        ("LlamaForCausalLM", lambda state: None),
        ("Qwen2ForSequenceClassification", lambda state: None),
        ("BertForSequenceClassification", lambda state: None),
    ],
)
def test_a_reward_model_that_is_not_what_it_claims_is_refused(
    claimed: str, change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    import json

    path = edited(save(tmp_path / "model", "LlamaForSequenceClassification", CASES["reward"][1]), change)
    config = json.loads((path / "config.json").read_text())
    model_type = {"Q": "qwen2", "B": "bert"}.get(claimed[0], "llama")
    (path / "config.json").write_text(json.dumps({**config, "architectures": [claimed], "model_type": model_type}))
    assert "INV-INIT-ARCH-MATCH-001" in refusing(path, run_kind=None)


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
def test_a_head_with_other_labels_than_its_config_names_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model", "LlamaForSequenceClassification", CASES["reward"][1])
    edited(path, lambda state: state.update({"score.weight": state["model.embed_tokens.weight"][:3].copy()}))
    assert "INV-INIT-SHAPE-001" in refusing(path, run_kind=None)


def old_norms(state: dict[str, Any]) -> None:
    for name in list(state):
        for new, old in ((".LayerNorm.weight", ".LayerNorm.gamma"), (".LayerNorm.bias", ".LayerNorm.beta")):
            if name.endswith(new):
                state[name.removesuffix(new) + old] = state.pop(name)


def without_prefix(state: dict[str, Any]) -> None:
    for name in list(state):
        state[name.removeprefix("transformer.")] = state.pop(name)


RENAMED = {
    "BERT as published": ("BertForMaskedLM", BERT, old_norms, "12 `LayerNorm.gamma` and `beta`"),
    "GPT-2 as published": ("GPT2LMHeadModel", GPT2, without_prefix, "`transformer.`"),
}


@pytest.mark.parametrize("case", RENAMED)
def test_published_names_load_into_the_same_model(case: str, tmp_path: Path) -> None:
    import torch
    import transformers

    class_name, values, rename, says = RENAMED[case]
    path = save(tmp_path / "model", class_name, values)
    with quiet_zoo():
        wanted = getattr(transformers, class_name).from_pretrained(path).state_dict()
    edited(path, rename)
    examination = examine(path, RoadOptions(run_kind=None))
    coverage = next(each.message for each in examination.findings if each.id == "INV-INIT-COVERAGE-001")
    assert says in coverage, coverage
    model, loaded = try_load(deepen(examination))
    assert loaded.is_accepted, loaded.refusals
    assert model is not None
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("is_flagged", [True, False], ids=["config says untied", "config says nothing"])
def test_a_head_that_t5_keeps_apart_is_loaded_apart_or_refused(is_flagged: bool, tmp_path: Path) -> None:
    """T5 1.1: the class ties its head whatever the config says, files hold another one, and the zoo keeps it apart."""
    import json

    import torch

    def untie(model: Any) -> None:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(320, 64))

    path = save(tmp_path / "model", "T5ForConditionalGeneration", T5, untie)
    config = json.loads((path / "config.json").read_text())
    config["tie_word_embeddings"] = not is_flagged
    (path / "config.json").write_text(json.dumps(config))
    model, loaded = try_load(examine(path, RoadOptions(run_kind=None)))
    assert loaded.is_accepted is is_flagged, loaded.refusals
    assert is_flagged == (model is not None and not torch.equal(model.lm_head.weight, model.shared.weight))
