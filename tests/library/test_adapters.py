"""`apr.verify_adapter`: applied, active and changing something, over the base it was trained on; or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apr
import apr.hf
from tests.adapters import (
    State,
    compiled,
    doubled,
    in_parallel,
    mutate,
    named,
    named_default,
    one_zero_output,
    same,
    without_prefix,
    zero_outputs,
)
from tests.library.conftest import refusal_of, refusing_ids

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")

COVERAGE, VALUES = "INV-INIT-COVERAGE-001", "INV-INIT-VALUES-001"
RECEIPT, CONFIG, PROBE = "INV-INIT-RECEIPT-001", "INV-INIT-CONFIG-001", "INV-INIT-PROBE-001"


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def over(base: Path, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(load(base), adapter)


def fresh(base: Path, **options: Any) -> Any:
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    return peft.get_peft_model(load(base), peft.LoraConfig(**settings))


def test_an_adapter_over_its_base_is_proven(qwen2: Path, adapter: Path) -> None:
    model = over(qwen2, adapter)
    receipt = apr.verify_adapter(model, adapter)
    assert receipt.tensors_written == 8
    assert receipt.source == str(adapter)
    assert apr.verify_loaded(model, qwen2, adapter=adapter).tensors_written == 27


def test_an_adapter_that_transformers_loaded_itself_is_proven(adapter: Path) -> None:
    assert apr.verify_adapter(load(adapter), adapter).tensors_written == 8
    with apr.hf.strict():
        assert type(load(adapter)).__name__ == "Qwen2ForCausalLM"


def test_an_adapter_in_another_dtype_is_widened_without_a_word(qwen2: Path, adapter: Path, tmp_path: Path) -> None:
    def half(state: State) -> State:
        return {name: tensor.bfloat16() for name, tensor in state.items()}

    copy = mutate(adapter, tmp_path / "half", half)
    assert apr.verify_adapter(over(qwen2, copy), copy).tensors_written == 8


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_an_adapter_that_was_never_applied_is_refused(qwen2: Path, adapter: Path) -> None:
    error = refusal_of(lambda: apr.verify_adapter(load(qwen2), adapter))
    assert error.invariant == COVERAGE
    assert "8 adapter tensors are applied to nothing" in str(error)
    other = refusal_of(lambda: apr.verify_adapter(over(qwen2, adapter), adapter, adapter_name="style"))
    assert "expected style, found default" in str(other)


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "gate"),
    [
        (without_prefix, COVERAGE),
        (compiled, COVERAGE),
        (doubled, COVERAGE),
        (in_parallel, COVERAGE),
        (named, COVERAGE),
        (zero_outputs, VALUES),
        (one_zero_output, VALUES),
    ],
)
def test_an_adapter_that_peft_loads_without_effect_is_refused(
    qwen2: Path, adapter: Path, tmp_path: Path, change: Callable[[State], State], gate: str
) -> None:
    copy = mutate(adapter, tmp_path / "copy", change)
    model = over(qwen2, copy)
    assert not all(bool(each.any()) for name, each in model.named_parameters() if "lora_B" in name)
    assert gate in refusing_ids(lambda: apr.verify_adapter(model, copy))


def test_an_adapter_saved_under_its_name_in_memory_is_proven(qwen2: Path, adapter: Path, tmp_path: Path) -> None:
    copy = mutate(adapter, tmp_path / "copy", named_default)
    assert apr.verify_adapter(over(qwen2, copy), copy).tensors_written == 8


def idle(model: Any) -> None:
    model.disable_adapter_layers()


def merged(model: Any) -> None:
    model.merge_adapter()


def scaled_away(model: Any) -> None:
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] = 0


def nudged(model: Any) -> None:
    parameters = (parameter for name, parameter in model.named_parameters() if "lora_B" in name)
    next(parameters).data[0, 0] += 1e-5


def base_nudged(model: Any) -> None:
    model.get_base_model().model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-5


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.parametrize(
    ("damage", "gates"),
    [
        (idle, {RECEIPT, PROBE}),
        (merged, {RECEIPT}),
        (scaled_away, {RECEIPT, PROBE}),
        (nudged, {RECEIPT}),
        (base_nudged, {RECEIPT}),
    ],
)
def test_an_adapter_that_does_not_act_as_saved_is_refused(
    qwen2: Path, adapter: Path, damage: Callable[[Any], None], gates: set[str]
) -> None:
    model = over(qwen2, adapter)
    damage(model)
    assert gates <= refusing_ids(lambda: apr.verify_adapter(model, adapter))


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_another_scale_than_the_trained_one_is_refused(qwen2: Path, adapter: Path, tmp_path: Path) -> None:
    model = over(qwen2, mutate(adapter, tmp_path / "copy", same, lora_alpha=64))
    error = refusal_of(lambda: apr.verify_adapter(model, adapter))
    assert error.invariant == CONFIG
    assert "lora_alpha = 64" in str(error)


def test_a_fresh_adapter_is_legal_over_named_weights_and_as_itself_when_declared(qwen2: Path, tmp_path: Path) -> None:
    model = fresh(qwen2)
    assert apr.verify_loaded(model, qwen2).tensors_written == 27
    model.save_pretrained(tmp_path / "fresh")
    copy = over(qwen2, tmp_path / "fresh")
    assert refusing_ids(lambda: apr.verify_adapter(copy, tmp_path / "fresh")) >= {VALUES}
    assert apr.verify_adapter(copy, tmp_path / "fresh", fresh=True).tensors_written == 8


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_an_adapter_nobody_named_is_refused(qwen2: Path, adapter: Path) -> None:
    error = refusal_of(lambda: apr.verify_loaded(over(qwen2, adapter), qwen2))
    assert error.invariant == RECEIPT
    assert "an adapter that nobody named changes what the weights compute: default" in str(error)


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_modules_that_peft_trains_whole_are_fresh_while_they_are_copies(qwen2: Path, tmp_path: Path) -> None:
    model = fresh(qwen2, modules_to_save=["lm_head"])
    assert apr.verify_loaded(model, qwen2).tensors_written == 27
    model.base_model.model.lm_head.modules_to_save["default"].weight.data[0, 0] += 1
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {RECEIPT}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "whole")
    assert apr.verify_adapter(over(qwen2, tmp_path / "whole"), tmp_path / "whole").tensors_written == 9


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_prompt_tensors_have_no_identity_and_must_be_named_or_declared(qwen2: Path, tmp_path: Path) -> None:
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    model = peft.get_peft_model(load(qwen2), config)
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {RECEIPT}
    assert apr.verify_loaded(model, qwen2, fresh_adapter=True).tensors_written == 27
    model.save_pretrained(tmp_path / "prompt")
    assert apr.preflight(tmp_path / "prompt").is_accepted
    loaded = over(qwen2, tmp_path / "prompt")
    assert apr.verify_adapter(loaded, tmp_path / "prompt").tensors_written == 1
    assert apr.verify_loaded(loaded, qwen2, adapter=tmp_path / "prompt").tensors_written == 27


def test_a_tied_base_and_gpt2s_transposed_layers_take_adapters_too(tied_bfloat16: Path, tmp_path: Path) -> None:
    from tests.tiny_models import save_tiny

    assert apr.verify_loaded(fresh(tied_bfloat16), tied_bfloat16).tensors_written == 26
    gpt2 = save_tiny(tmp_path / "gpt2", "gpt2")
    model = fresh(gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "adapter")
    assert apr.preflight(tmp_path / "adapter").is_accepted
    assert apr.verify_adapter(over(gpt2, tmp_path / "adapter"), tmp_path / "adapter").tensors_written == 4


def start_trainer(model: Any, callback: Any, rows: list[dict[str, Any]], output: Path, resume: Path | None) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(output), max_steps=3, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    callback.attach(trainer)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_the_trainer_starts_from_a_base_with_a_fresh_adapter_and_resumes_from_its_own(
    trained: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    callback = apr.hf.VerifyCallback(trained)
    start_trainer(fresh(trained), callback, rows, tmp_path / "run", None)
    assert callback.start.receipt.tensors_written == 27
    checkpoint = tmp_path / "run" / "checkpoint-2"
    resumed = apr.hf.VerifyCallback(checkpoint)
    trainer = start_trainer(fresh(trained), resumed, rows, tmp_path / "run", checkpoint)
    assert trainer.state.global_step == 3
    assert resumed.start.receipt.source == str(trained)
    wrong = apr.hf.VerifyCallback(trained)
    error = refusal_of(lambda: start_trainer(fresh(trained), wrong, rows, tmp_path / "run", checkpoint))
    assert error.invariant == RECEIPT
