"""Every flavour of LoRA and every other kind of PEFT: healthy as PEFT saves them, and refused with a part missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apr
from apr.errors import RefusedError
from apr.gates.adapters.kinds import MARKS
from tests.adapters import (
    State,
    constant_head,
    head_of_no_numbers,
    mutate,
    same,
    save_adapter,
    save_kind,
    short_magnitudes,
    without_biases,
    without_diagonals,
    without_magnitudes,
    without_one_magnitude,
    without_rows,
    zero_head,
    zero_magnitudes,
    zero_pairs,
)
from tests.tiny_models import save_tiny

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COVERAGE, SHAPE, VALUES = "INV-INIT-COVERAGE-001", "INV-INIT-SHAPE-001", "INV-INIT-VALUES-001"


def kasa() -> dict[str, Any]:
    from peft.tuners.lora.config import KasaConfig

    return {"kasa_config": KasaConfig()}


def velora() -> dict[str, Any]:
    from peft.tuners.lora.config import VeloraConfig

    return {"velora_config": VeloraConfig()}


def monteclora() -> dict[str, Any]:
    from peft.tuners.lora.config import MontecloraConfig

    return {"monteclora_config": MontecloraConfig()}


def bdlora() -> dict[str, Any]:
    from peft.tuners.lora.config import BdLoraConfig

    return {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2)}


DORA: dict[str, Any] = {"use_dora": True}
HEAD: dict[str, Any] = {"modules_to_save": ["lm_head"]}
DEFECTS: list[tuple[dict[str, Any], Callable[[State], State], dict[str, Any], str, str]] = [
    (DORA, same, {"use_dora": False}, COVERAGE, "4 tensors are DoRA magnitudes, which the config does not ask for"),
    (DORA, without_magnitudes, {}, COVERAGE, "4 adapted modules lack DoRA magnitudes"),
    (DORA, without_one_magnitude, {}, COVERAGE, "1 adapted modules lack DoRA magnitudes"),
    (DORA, zero_magnitudes, {}, VALUES, "4 of 12 adapter tensors multiply what the adapter does, and are zero"),
    (DORA, short_magnitudes, {}, SHAPE, "4 DoRA magnitudes are not one for each output of their module"),
    (HEAD, zero_head, {}, VALUES, "1 of 9 adapter tensors are held whole and zero everywhere"),
    (HEAD, constant_head, {}, VALUES, "1 of 9 adapter tensors are held whole and hold one value everywhere"),
    (HEAD, head_of_no_numbers, {}, VALUES, "1 of 9 adapter tensors hold NaN or infinite values"),
    (HEAD, zero_head, {"modules_to_save": None}, VALUES, "held whole and zero everywhere"),
    ({"lora_bias": True}, same, {"lora_bias": False}, COVERAGE, "4 tensors are biases of `lora_B`, which the config"),
    ({"lora_bias": True}, without_biases, {}, COVERAGE, "4 adapted modules lack biases of `lora_B`"),
    ({"bias": "all"}, without_biases, {}, COVERAGE, "6 biases of the base were trained"),
    ({"trainable_token_indices": [1, 2]}, without_rows, {}, COVERAGE, "the file lacks the rows of tokens"),
    ({"trainable_token_indices": [1, 2]}, same, {"trainable_token_indices": None}, COVERAGE, "tensors are rows of"),
    (kasa(), without_diagonals, {}, COVERAGE, "4 adapted modules lack singular values of KaSA"),
    (kasa(), same, {"kasa_config": None}, COVERAGE, "4 tensors are singular values of KaSA"),
]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize(("flavour", "change", "config", "gate", "said"), DEFECTS, ids=[each[4] for each in DEFECTS])
def test_a_part_of_a_flavour_that_is_lost_is_refused(
    qwen2: Path,
    tmp_path: Path,
    flavour: dict[str, Any],
    change: Callable[[State], State],
    config: dict[str, Any],
    gate: str,
    said: str,
) -> None:
    from transformers import AutoModelForCausalLM

    healthy = save_adapter(qwen2, tmp_path / "healthy", **flavour)
    assert apr.preflight(healthy).refusals == ()
    faulty = mutate(healthy, tmp_path / "faulty", change, **config)
    refusals = apr.preflight(faulty).refusals
    assert [finding.id for finding in refusals] == [gate]
    assert said in refusals[0].message
    with pytest.raises(RefusedError) as refused:
        apr.verify_adapter(AutoModelForCausalLM.from_pretrained(qwen2), faulty)
    assert said in str(refused.value)


FLAVOURS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3, r"layers\.1\..*": 5}},
    {"rank_pattern": {r"layers\.\d+\.self_attn\.(q|v)_proj": 2}},
    DORA,
    {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    HEAD,
    {"modules_to_save": ["norm", "lm_head"], "bias": "lora_only"},
    {"bias": "all"},
    {"lora_bias": True},
    {"trainable_token_indices": {"embed_tokens": [1, 2]}},
    {"alora_invocation_tokens": [1, 2]},
    {"init_lora_weights": "mica"},
    {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "gaussian"},
    kasa(),
    velora(),
    monteclora(),
    bdlora(),
]


@pytest.mark.parametrize("is_fresh", [False, True], ids=["trained", "fresh"])
@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda each: "-".join(each) or "plain")
def test_a_healthy_flavour_is_accepted_trained_and_declared_fresh(
    qwen2: Path, tmp_path: Path, flavour: dict[str, Any], is_fresh: bool
) -> None:
    healthy = save_adapter(qwen2, tmp_path / "healthy", fresh=is_fresh, **flavour)
    assert apr.preflight(healthy, fresh_adapter=is_fresh).refusals == ()


def test_a_tie_that_is_adapted_at_both_ends_is_healthy(tied_bfloat16: Path, tmp_path: Path) -> None:
    modules = ["q_proj", "embed_tokens", "lm_head"]
    healthy = save_adapter(tied_bfloat16, tmp_path / "tied", target_modules=modules, ensure_weight_tying=True)
    assert apr.preflight(healthy).refusals == ()


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_a_pair_of_which_both_halves_are_zero_is_dead_also_when_it_is_fresh(adapter: Path, tmp_path: Path) -> None:
    dead = mutate(adapter, tmp_path / "dead", zero_pairs)
    refusals = apr.preflight(dead, fresh_adapter=True).refusals
    assert "8 of 8 adapter tensors are zero in both halves of a pair" in refusals[0].message


def test_a_new_head_may_begin_at_zero_and_a_copied_one_may_not(qwen2: Path, tmp_path: Path) -> None:
    def zero_score(state: State) -> State:
        return {name: tensor * 0 if "score" in name else tensor for name, tensor in state.items()}

    auto = "AutoModelForSequenceClassification"
    new = save_adapter(qwen2, tmp_path / "new", auto=auto, task_type="SEQ_CLS", fresh=True)
    assert apr.preflight(mutate(new, tmp_path / "zero", zero_score), fresh_adapter=True).refusals == ()
    copied = save_adapter(qwen2, tmp_path / "copied", fresh=True, **HEAD)
    refusals = apr.preflight(mutate(copied, tmp_path / "lost", zero_head), fresh_adapter=True).refusals
    assert "held whole and zero everywhere" in refusals[0].message


@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_4"])
def test_a_beginning_that_changes_the_base_is_said_to_be_unchecked(qwen2: Path, tmp_path: Path, init: str) -> None:
    examination = apr.preflight(save_adapter(qwen2, tmp_path / "adapter", init_lora_weights=init))
    assert examination.is_accepted
    assert any(each.message.startswith(f"init_lora_weights is '{init}'") for each in examination.findings)


def test_adapters_side_by_side_are_each_accepted(qwen2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(qwen2), settings)
    model.add_adapter("style", peft.LoraConfig(r=2, use_dora=True, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.5)
    model.save_pretrained(tmp_path / "several")
    assert apr.preflight(tmp_path / "several").refusals == ()
    assert apr.preflight(tmp_path / "several" / "style").refusals == ()


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("IA3Config", {"target_modules": ["q_proj", "v_proj"], "feedforward_modules": []}),
    ("LoHaConfig", {"target_modules": ["q_proj"], "r": 4}),
    ("LoKrConfig", {"target_modules": ["q_proj"], "r": 4}),
    ("AdaLoraConfig", {"target_modules": ["q_proj"], "total_step": 10}),
    ("VeraConfig", {"target_modules": ["q_proj"], "r": 8}),
    ("OFTConfig", {"target_modules": ["q_proj"], "r": 0, "oft_block_size": 4}),
    ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
]


@pytest.mark.parametrize(("kind", "config"), KINDS, ids=[each[0] for each in KINDS])
def test_another_kind_is_accepted_for_what_can_be_told_and_the_rest_is_said_to_be_unchecked(
    qwen2: Path, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    healthy = save_kind(qwen2, tmp_path / "adapter", kind, **config)
    examination = apr.preflight(healthy)
    assert examination.refusals == ()
    assert any("only of LoRA do they" in each.message for each in examination.findings)
    as_lora = apr.preflight(mutate(healthy, tmp_path / "as-lora", same, peft_type="LORA"))
    assert not as_lora.is_accepted


def test_the_table_of_kinds_is_that_of_peft() -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS

    assert {kind.value for kind in peft.PeftType} <= MARKS.keys()
    prefixes = {
        kind.value: tuner.prefix for kind, tuner in TUNERS.items() if isinstance(getattr(tuner, "prefix", None), str)
    }
    differing = {kind for kind, prefix in prefixes.items() if not MARKS[kind].startswith(prefix)}
    assert differing == set()


def test_a_fresh_embedding_is_an_identity_over_named_weights(qwen2: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = peft.LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    apr.verify_loaded(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(qwen2), settings), qwen2)


LOADED: list[dict[str, Any]] = [
    DORA,
    HEAD,
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"trainable_token_indices": [1, 2]},
    {"alora_invocation_tokens": [1, 2]},
    velora(),
]


@pytest.mark.parametrize("flavour", LOADED, ids="-".join)
def test_a_healthy_flavour_is_proven_in_memory(qwen2: Path, tmp_path: Path, flavour: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    healthy = save_adapter(qwen2, tmp_path / "healthy", **flavour)
    apr.verify_adapter(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(qwen2), healthy), healthy)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_transposition_that_peft_corrects_is_no_other_config(tmp_path: Path, is_transposed: bool) -> None:
    from transformers import AutoModelForCausalLM

    base = save_tiny(tmp_path / "gpt2", "gpt2")
    saved = save_adapter(base, tmp_path / "saved", target_modules=["c_attn"])
    recorded = mutate(saved, tmp_path / "recorded", same, fan_in_fan_out=is_transposed)
    apr.verify_adapter(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), recorded), recorded)
