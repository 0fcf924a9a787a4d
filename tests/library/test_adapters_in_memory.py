"""What may be wrong with adapters in memory although their files are right, and what may be unusual and right."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apr
from tests.adapters import mutate, same, save_adapter, save_kind
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import save_tiny

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COVERAGE, RECEIPT, VALUES = "INV-INIT-COVERAGE-001", "INV-INIT-RECEIPT-001", "INV-INIT-VALUES-001"


def load(path: Path, auto: str = "AutoModelForCausalLM", **keywords: Any) -> Any:
    import transformers

    return getattr(transformers, auto).from_pretrained(path, **keywords)


def over(base: Path, adapter: Path, **keywords: Any) -> Any:
    return peft.PeftModel.from_pretrained(load(base), adapter, **keywords)


def fresh(base: Path, **options: Any) -> Any:
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    return peft.get_peft_model(load(base), peft.LoraConfig(**settings))


def train(model: Any, *parts: str) -> Any:
    """As training leaves it: parameters whose names hold one of `parts` are moved."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and any(part in name for part in parts):
            torch.nn.init.normal_(parameter.data, std=0.5)
    return model


@pytest.fixture(scope="module")
def other(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(qwen2, tmp_path_factory.mktemp("adapters") / "other", target_modules=["up_proj"])


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("names", [["default", "other"], ["other", "default"]])
def test_another_trained_adapter_that_acts_beside_the_named_one_is_refused(
    qwen2: Path, adapter: Path, other: Path, names: list[str]
) -> None:
    model = over(qwen2, adapter)
    model.load_adapter(other, "other")
    model.base_model.set_adapter(names)
    for action in (
        lambda: apr.verify_adapter(model, adapter),
        lambda: apr.verify_loaded(model, qwen2, adapter=adapter),
    ):
        error = refusal_of(action)
        assert error.invariant == RECEIPT
        assert "beside the adapter 'default' others act that nobody named: other" in str(error)
    reason = {RECEIPT: "both are wanted"}
    assert apr.verify_loaded(model, qwen2, adapter=adapter, allowed_gates=reason).tensors_written == 27


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_another_adapter_that_is_merged_is_refused(qwen2: Path, adapter: Path, other: Path) -> None:
    model = over(qwen2, adapter)
    model.load_adapter(other, "other")
    model.merge_adapter(adapter_names=["other"])
    assert refusing_ids(lambda: apr.verify_adapter(model, adapter, adapter_name="default", check_base=False)) == {
        RECEIPT
    }


def test_another_adapter_that_is_idle_or_changes_nothing_is_let_be(qwen2: Path, adapter: Path, other: Path) -> None:
    model = over(qwen2, adapter)
    model.load_adapter(other, "other")
    assert apr.verify_loaded(model, qwen2, adapter=adapter).tensors_written == 27
    assert apr.verify_adapter(model, adapter).tensors_written == 8
    model.add_adapter("new", peft.LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "new"])
    assert apr.verify_loaded(model, qwen2, adapter=adapter).tensors_written == 27
    model.set_adapter("other")
    assert apr.verify_adapter(model, other).tensors_written == 4
    assert RECEIPT in refusing_ids(lambda: apr.verify_adapter(model, adapter, adapter_name="default"))


def multiplied(factor: float) -> Callable[[Any], None]:
    def scale(model: Any) -> None:
        for layer in model.modules():
            if isinstance(getattr(layer, "scaling", None), dict):
                layer.scaling = {name: value * factor for name, value in layer.scaling.items()}

    return scale


def one_layer_scaled(model: Any) -> None:
    model.base_model.model.model.layers[1].self_attn.v_proj.set_scale("default", 2.0)


SCALED: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3, r"layers\.1\..*": 5}},
    {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"], "alpha_pattern": {"up_proj": 2}},
    {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"], "alpha_pattern": {"up_proj.weight": 2}},
    {"use_dora": True},
]


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("flavour", SCALED, ids=lambda each: "-".join(each) or "plain")
def test_a_scale_that_was_changed_in_memory_is_refused_and_the_stated_one_is_not(
    qwen2: Path, tmp_path: Path, flavour: dict[str, Any]
) -> None:
    saved = save_adapter(qwen2, tmp_path / "saved", **flavour)
    assert apr.verify_adapter(over(qwen2, saved), saved).source == str(saved)
    for factor in (5, -1, 1 + 1e-4, math.nan):
        model = over(qwen2, saved)
        multiplied(factor)(model)
        assert RECEIPT in refusing_ids(lambda model=model: apr.verify_adapter(model, saved, probe=False))


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_scale_changed_in_one_layer_or_for_a_while_is_refused(qwen2: Path, adapter: Path) -> None:
    from peft.helpers import rescale_adapter_scale

    model = over(qwen2, adapter)
    with rescale_adapter_scale(model, 0.5):
        error = refusal_of(lambda: apr.verify_adapter(model, adapter))
        assert "scaled by 1 in place of 2 in 4 of 4 modules" in str(error)
    assert apr.verify_adapter(model, adapter).tensors_written == 8
    one_layer_scaled(model)
    assert "scaled by 4 in place of 2 in 1 of 4 modules" in str(refusal_of(lambda: apr.verify_adapter(model, adapter)))


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig"])
def test_the_scale_of_lycoris_kinds_is_held_too(qwen2: Path, tmp_path: Path, kind: str) -> None:
    saved = save_kind(
        qwen2, tmp_path / "saved", kind, target_modules=["q_proj", "v_proj"], r=4, alpha=6, rank_pattern={"v_proj": 2}
    )
    model = over(qwen2, saved)
    assert apr.verify_adapter(model, saved).source == str(saved)
    multiplied(2)(model)
    assert refusing_ids(lambda: apr.verify_adapter(model, saved)) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_trained_adapter_is_not_fresh_because_it_is_declared_so(qwen2: Path, adapter: Path) -> None:
    error = refusal_of(lambda: apr.verify_loaded(over(qwen2, adapter), qwen2, fresh_adapter=True))
    assert error.invariant == RECEIPT
    assert "declared fresh is trained: default" in str(error)
    assert apr.verify_loaded(over(qwen2, adapter), qwen2, allowed_gates={RECEIPT: "known"}).tensors_written == 27


FRESH: list[tuple[dict[str, Any], str]] = [
    ({}, "lora_B"),
    ({"use_dora": True}, "magnitude"),
    ({"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens.lora_magnitude"),
    ({"bias": "all"}, "lora_B"),
    ({"bias": "lora_only"}, "lora_B"),
    ({"lora_bias": True}, "lora_B.default.bias"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
    ({"trainable_token_indices": [1, 5, 9]}, "tokens_delta"),
    ({"modules_to_save": ["lm_head", "embed_tokens"]}, "lm_head.modules_to_save"),
    ({"init_lora_weights": "mica"}, "lora_A"),
]


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize(("flavour", "part"), FRESH, ids=[f"{'-'.join(each)}-{part}" for each, part in FRESH])
@pytest.mark.parametrize("declared", [False, True], ids=["unnamed", "declared"])
def test_a_fresh_flavour_is_an_identity_until_it_is_trained(
    qwen2: Path, flavour: dict[str, Any], part: str, declared: bool
) -> None:
    model = fresh(qwen2, **flavour)
    assert apr.verify_loaded(model, qwen2, fresh_adapter=declared).tensors_written == 27
    train(model, part)
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2, fresh_adapter=declared)) == {RECEIPT}


@pytest.mark.parametrize("init", [False, "orthogonal"])
def test_a_beginning_away_from_zero_has_to_be_declared(qwen2: Path, init: Any) -> None:
    model = fresh(qwen2, init_lora_weights=init)
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {RECEIPT}
    assert apr.verify_loaded(model, qwen2, fresh_adapter=True).tensors_written == 27


def test_a_fresh_dora_over_a_rounded_base_and_transposed_layers_is_an_identity(
    tied_bfloat16: Path, tmp_path: Path
) -> None:
    assert apr.verify_loaded(fresh(tied_bfloat16, use_dora=True), tied_bfloat16).tensors_written == 26
    gpt2 = save_tiny(tmp_path / "gpt2", "gpt2")
    assert apr.verify_loaded(fresh(gpt2, use_dora=True, target_modules=["c_attn"]), gpt2).source == str(gpt2)


@pytest.mark.parametrize("is_trainable", [False, True])
def test_what_may_be_trained_is_the_same_after_a_check(qwen2: Path, adapter: Path, is_trainable: bool) -> None:
    model = over(qwen2, adapter, is_trainable=is_trainable)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    apr.verify_adapter(model, adapter)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    model.base_model.model.model.layers[0].self_attn.q_proj._disable_adapters = True
    layers = [getattr(each, "_disable_adapters", None) for each in model.modules()]
    refusal_of(lambda: apr.verify_adapter(model, adapter))
    assert [getattr(each, "_disable_adapters", None) for each in model.modules()] == layers


HELD_WHOLE: list[dict[str, Any]] = [
    {"bias": "all"},
    {"bias": "lora_only"},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"trainable_token_indices": [1, 5, 9]},
    {"modules_to_save": ["lm_head", "embed_tokens"]},
    {"modules_to_save": ["norm", "lm_head"], "bias": "all"},
]


def nudge(model: Any, name: str) -> None:
    next(each for own, each in model.named_parameters() if own.endswith(name)).data.flatten()[0] += 1e-3


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("flavour", HELD_WHOLE, ids=lambda each: "-".join(each))
def test_tensors_of_the_base_that_an_adapter_holds_are_proven_with_the_adapter_and_all_others_with_the_base(
    qwen2: Path, tmp_path: Path, flavour: dict[str, Any]
) -> None:
    saved = save_adapter(qwen2, tmp_path / "saved", **flavour)
    model = over(qwen2, saved)
    assert apr.verify_adapter(model, saved).source == str(saved)
    assert apr.verify_loaded(model, qwen2, adapter=saved).source == str(qwen2)
    assert apr.verify_loaded(load(saved), qwen2, adapter=saved).source == str(qwen2)
    nudge(model, "layers.1.mlp.down_proj.weight")
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2, adapter=saved)) == {RECEIPT}
    assert refusing_ids(lambda: apr.verify_adapter(model, saved)) == {RECEIPT}
    if "bias" in flavour:
        model = over(qwen2, saved)
        nudge(model, "q_proj.base_layer.bias")
        assert refusing_ids(lambda: apr.verify_loaded(model, qwen2, adapter=saved)) == {RECEIPT}
        assert refusing_ids(lambda: apr.verify_adapter(model, saved)) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head", "embed_tokens"]}], ids=["auto", "saved"])
def test_a_vocabulary_that_grew_is_proven_with_the_adapter_that_holds_it(
    qwen2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    def grown() -> Any:
        model = load(qwen2)
        model.resize_token_embeddings(model.config.vocab_size + 4)
        return model

    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    train(peft.get_peft_model(grown(), settings), "lora", "modules_to_save").save_pretrained(tmp_path / "grown")
    model = peft.PeftModel.from_pretrained(grown(), tmp_path / "grown")
    assert apr.verify_adapter(model, tmp_path / "grown").source == str(tmp_path / "grown")
    assert apr.verify_loaded(model, qwen2, adapter=tmp_path / "grown").source == str(qwen2)
    nudge(model, "lm_head.modules_to_save.default.weight" if options else "lm_head.weight")
    assert refusing_ids(lambda: apr.verify_adapter(model, tmp_path / "grown")) == {RECEIPT}
    plain = save_adapter(qwen2, tmp_path / "plain")
    model = peft.PeftModel.from_pretrained(grown(), plain)
    assert "INV-INIT-SHAPE-001" in refusing_ids(lambda: apr.verify_loaded(model, qwen2, adapter=plain))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_the_head_of_a_classifier_is_proven_with_its_adapter(qwen2: Path, tmp_path: Path) -> None:
    auto = "AutoModelForSequenceClassification"
    saved = save_adapter(qwen2, tmp_path / "saved", auto=auto, task_type="SEQ_CLS")
    model = peft.PeftModel.from_pretrained(load(qwen2, auto), saved)
    assert apr.verify_adapter(model, saved).tensors_written == 9
    assert apr.verify_loaded(model, qwen2, adapter=saved).tensors_written == 26
    nudge(model, "score.modules_to_save.default.weight")
    assert RECEIPT in refusing_ids(lambda: apr.verify_adapter(model, saved))
    plain = save_adapter(qwen2, tmp_path / "plain", task_type=None)
    headless = peft.PeftModel.from_pretrained(load(qwen2, auto), plain)
    assert COVERAGE in refusing_ids(lambda: apr.verify_adapter(headless, plain))


BUFFERED: list[tuple[str, dict[str, Any]]] = [
    ("OFTConfig", {"target_modules": ["q_proj"], "r": 0, "oft_block_size": 4}),
    ("BOFTConfig", {"target_modules": ["q_proj"], "boft_block_size": 4}),
    ("VeraConfig", {"target_modules": ["q_proj"], "r": 4, "save_projection": False}),
    ("TrainableTokensConfig", {"token_indices": [1, 5]}),
]


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
@pytest.mark.parametrize(("kind", "config"), BUFFERED, ids=[each[0] for each in BUFFERED])
def test_buffers_of_an_adapter_are_no_buffers_of_the_base(
    qwen2: Path, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    saved = save_kind(qwen2, tmp_path / "saved", kind, **config)
    model = over(qwen2, saved)
    assert apr.verify_adapter(model, saved).source == str(saved)
    assert apr.verify_loaded(model, qwen2, adapter=saved).tensors_written == 27
    untrained = peft.get_peft_model(load(qwen2), getattr(peft, kind)(task_type="CAUSAL_LM", **config))
    assert apr.verify_loaded(untrained, qwen2, fresh_adapter=True).tensors_written == 27
    model.get_base_model().model.rotary_emb.inv_freq[0] += 1
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2, adapter=saved)) == {"INV-INIT-BUFFERS-001"}


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_beginning_taken_out_of_the_base_is_said_to_be_one(qwen2: Path, tmp_path: Path, init: str) -> None:
    saved = save_adapter(qwen2, tmp_path / "saved", init_lora_weights=init)
    model = over(qwen2, saved)
    for action in (
        lambda: apr.verify_adapter(model, saved),
        lambda: apr.verify_loaded(model, qwen2, adapter=saved),
        lambda: apr.verify_loaded(fresh(qwen2, init_lora_weights=init), qwen2, fresh_adapter=True),
    ):
        error = refusal_of(action)
        assert f"began as '{init}', and PEFT takes such a beginning out of the base weights" in str(error)
        assert "check_base=False" in str(error.remedy)
    assert apr.verify_adapter(model, saved, check_base=False).tensors_written == 8
    nudge(model, "mlp.down_proj.weight")
    assert "down_proj.weight differs from the file's bytes\n" in str(
        refusal_of(lambda: apr.verify_adapter(model, saved))
    )


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_replicated_layers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "llama")
    saved = save_adapter(base, tmp_path / "saved", layer_replication=[[0, 2], [1, 2]])
    model = over(base, saved)
    for action in (
        lambda: apr.verify_adapter(model, saved),
        lambda: apr.verify_loaded(model, base, adapter=saved),
    ):
        error = refusal_of(action)
        assert error.invariant == COVERAGE
        assert "layer_replication made other layers out of it" in str(error)
    assert apr.verify_adapter(model, saved, check_base=False).source == str(saved)


def test_a_transformers_model_with_several_adapters_names_the_acting_one(
    qwen2: Path, adapter: Path, other: Path
) -> None:
    model = load(qwen2)
    model.load_adapter(str(adapter), adapter_name="first")
    model.load_adapter(str(other), adapter_name="second")
    model.set_adapter("first")
    assert apr.verify_adapter(model, adapter).tensors_written == 8
    copied = mutate(adapter, other.parent / "copied", same)
    model.set_adapter(["first", "second"])
    assert RECEIPT in refusing_ids(lambda: apr.verify_adapter(model, copied, adapter_name="first"))
