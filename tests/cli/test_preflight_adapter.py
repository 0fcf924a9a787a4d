"""`apr preflight` and `apr inspect` on a directory with a PEFT adapter: faults are named, healthy twins pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import (
    State,
    compiled,
    deeper,
    doubled,
    first_layer_only,
    in_parallel,
    mutate,
    named,
    named_default,
    narrower,
    one_zero_output,
    same,
    save_adapter,
    strayed,
    without_head,
    without_prefix,
    zero_outputs,
)
from tests.cli.conftest import Answer, imported_by
from tests.tiny_models import relabel, save_tiny

pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COVERAGE, SHAPE = "INV-INIT-COVERAGE-001", "INV-INIT-SHAPE-001"
VALUES, IDENTITY = "INV-INIT-VALUES-001", "FALSIFY-APR-PRETRAIN-INIT-005"
Apr = Callable[..., Answer]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def qwen2(home: Path) -> Path:
    return save_tiny(home / "qwen2", "qwen2")


@pytest.fixture(scope="module")
def adapter(home: Path, qwen2: Path) -> Path:
    return save_adapter(qwen2, home / "adapter")


@pytest.fixture(scope="module")
def whole_head(home: Path, qwen2: Path) -> Path:
    """An adapter that trains the head whole beside its LoRA matrices."""
    return save_adapter(qwen2, home / "whole-head", modules_to_save=["lm_head"])


FAULTS = [
    (zero_outputs, {}, VALUES, "4 of 8 adapter tensors are a zero `lora_B`"),
    (one_zero_output, {}, VALUES, "1 of 8 adapter tensors are a zero `lora_B`"),
    (without_prefix, {}, COVERAGE, "all 8 adapter tensors lack the prefix `base_model.model.`"),
    (doubled, {}, COVERAGE, "carry `base_model.model.` twice"),
    (compiled, {}, COVERAGE, "carry `_orig_mod.`, put there by torch.compile"),
    (in_parallel, {}, COVERAGE, "carry `module.`, put there by DataParallel"),
    (named, {}, COVERAGE, "carry the adapter's own name, style"),
    (first_layer_only, {}, COVERAGE, "2 modules that the config adapts have no tensors in the file"),
    (deeper, {}, COVERAGE, "2 adapted modules do not exist in the base model"),
    (strayed, {}, COVERAGE, "1 adapter tensors belong to nothing"),
    (same, {"target_modules": ["q_proj"]}, COVERAGE, "2 modules have adapter tensors, and the config does not"),
    (narrower, {}, SHAPE, "4 LoRA tensors do not fit the modules of the base model"),
    (same, {"r": 8}, SHAPE, "8 LoRA tensors are not of the rank that the config states"),
    (same, {"lora_alpha": None}, IDENTITY, "does not say how the adapter is applied"),
]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
@pytest.mark.parametrize(
    ("change", "config", "gate", "said"), FAULTS, ids=[f"{f[0].__name__}-{f[3][:9]}" for f in FAULTS]
)
def test_a_fault_is_refused_by_its_gate_with_its_cause(
    apr: Apr,
    adapter: Path,
    tmp_path: Path,
    change: Callable[[State], State],
    config: dict[str, Any],
    gate: str,
    said: str,
) -> None:
    answer = apr("preflight", mutate(adapter, tmp_path / "faulty", change, **config), "--json")
    refusals = [each for each in answer.document["findings"] if each["status"] == "refuse"]
    assert answer.exit_code == 5
    assert not answer.document["accepted"]
    assert gate in {each["id"] for each in refusals}
    assert said in " ".join(each["message"] for each in refusals)


# Settings people use, over bases whose names in the file are and are not those in memory.
TWINS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("qwen2", {}, {}),
    ("qwen2", {}, {"target_modules": r".*\.layers\.\d+\.self_attn\.(q|v)_proj"}),
    ("qwen2", {}, {"target_modules": "all-linear"}),
    ("qwen2", {}, {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    ("qwen2", {}, {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 0}),
    ("qwen2", {}, {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    ("qwen2", {}, {"rank_pattern": {"v_proj": 2, "^model.layers.1.self_attn.q_proj": 6}}),
    ("qwen2", {}, {"use_dora": True, "use_rslora": True}),
    ("qwen2", {}, {"bias": "all"}),
    ("qwen2", {}, {"bias": "lora_only"}),
    ("qwen2", {}, {"lora_bias": True, "target_modules": ["o_proj"], "bias": "none"}),
    ("qwen2", {}, {"modules_to_save": ["lm_head", "embed_tokens"]}),
    ("qwen2", {"tie_word_embeddings": True}, {"modules_to_save": ["embed_tokens"]}),
    ("qwen2", {"tie_word_embeddings": True}, {"target_modules": ["q_proj", "lm_head"]}),
    ("qwen2", {}, {"target_modules": ["q_proj", "embed_tokens"]}),
    ("qwen2", {}, {"trainable_token_indices": [1, 2, 3]}),
    ("qwen2", {}, {"task_type": None}),
    ("gpt2", {}, {"target_modules": ["c_attn", "c_proj"]}),
    ("gpt2", {}, {"target_modules": ["c_attn", "wte"], "layers_to_transform": None}),
    ("gpt_neox", {}, {"target_modules": ["query_key_value"]}),
    ("opt", {}, {"target_modules": ["k_proj", "fc1"]}),
    ("phi3", {}, {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    ("mamba", {}, {"target_modules": ["in_proj", "x_proj", "embeddings"]}),
    ("qwen3_moe", {}, {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]}),
    ("qwen3_moe", {}, {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}),
]


@pytest.mark.parametrize(("model_type", "model", "config"), TWINS, ids=[f"{t[0]}-{'-'.join(t[2])}" for t in TWINS])
def test_a_healthy_adapter_is_accepted_with_its_base(
    apr: Apr, tmp_path: Path, model_type: str, model: dict[str, Any], config: dict[str, Any]
) -> None:
    base = save_tiny(tmp_path / "base", model_type, **model)
    healthy = save_adapter(base, tmp_path / "adapter", **config)
    answer = apr("preflight", healthy, "--json")
    assert [each for each in answer.document["findings"] if each["status"] == "refuse"] == []
    assert answer.exit_code == 0
    assert answer.document["format"] == "peft"
    assert answer.document["accepted"]
    assert any(each["message"].startswith(f"base model {base}") for each in answer.document["findings"])


def test_a_base_without_the_prefix_of_its_class_is_still_the_base(apr: Apr, tmp_path: Path) -> None:
    """GPT-2 as it was published: `h.0.attn`, where the class in memory says `transformer.h.0.attn`."""
    from safetensors.torch import load_file, save_file

    base = save_tiny(tmp_path / "base", "gpt2")
    healthy = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn"])
    weights = base / "model.safetensors"
    state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(weights).items()}
    save_file(state, weights, metadata={"format": "pt"})
    findings = apr("preflight", healthy, "--json").document["findings"]
    own = [each for each in findings if not each["message"].startswith("base model")]
    assert {each["status"] for each in own} == {"pass"}


def test_a_head_that_is_new_is_in_no_base_and_has_to_be_in_the_file(apr: Apr, qwen2: Path, tmp_path: Path) -> None:
    auto = "AutoModelForSequenceClassification"
    healthy = save_adapter(qwen2, tmp_path / "scorer", auto=auto, task_type="SEQ_CLS")
    assert apr("preflight", healthy).exit_code == 0
    headless = mutate(healthy, tmp_path / "headless", without_head)
    answer = apr("preflight", headless)
    assert answer.exit_code == 5
    assert "modules that the config trains whole (modules_to_save) have no tensors in the file" in answer.stdout


def test_modules_trained_whole_are_part_of_the_account(apr: Apr, whole_head: Path, tmp_path: Path) -> None:
    assert apr("preflight", whole_head).exit_code == 0
    answer = apr("preflight", mutate(whole_head, tmp_path / "headless", without_head))
    assert answer.exit_code == 5
    assert "1 modules that the config trains whole" in answer.stdout
    assert "lm_head" in answer.stdout


def test_an_untrained_adapter_is_refused_until_it_is_declared(apr: Apr, qwen2: Path, tmp_path: Path) -> None:
    fresh = save_adapter(qwen2, tmp_path / "fresh", fresh=True)
    refused = apr("preflight", fresh)
    assert refused.exit_code == 5
    assert "say so: --fresh-adapter" in refused.stdout
    assert apr("preflight", fresh, "--fresh-adapter").exit_code == 0


def test_the_base_can_be_named_and_is_held_against_the_adapter(
    apr: Apr, adapter: Path, qwen2: Path, tmp_path: Path
) -> None:
    elsewhere = mutate(adapter, tmp_path / "elsewhere", same, base_model_name_or_path="organisation/absent")
    alone = apr("preflight", elsewhere)
    assert alone.exit_code == 0
    assert "the base model organisation/absent is not on this machine" in alone.stdout
    assert apr("preflight", elsewhere, "--base", qwen2).exit_code == 0
    other = save_tiny(tmp_path / "gpt2", "gpt2")
    refused = apr("preflight", elsewhere, "--base", other)
    assert refused.exit_code == 5
    assert "4 adapted modules do not exist in the base model" in refused.stdout
    missing = apr("preflight", elsewhere, "--base", tmp_path / "nowhere")
    assert missing.exit_code == 5
    assert "base model" in missing.stdout


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_base_that_lies_refuses_its_adapter(apr: Apr, adapter: Path, qwen2: Path, tmp_path: Path) -> None:
    liar = relabel(Path(shutil.copytree(qwen2, tmp_path / "liar")), "llama", "LlamaForCausalLM")
    answer = apr("preflight", adapter, "--base", liar, "--json")
    assert answer.exit_code == 5
    refusals = [each for each in answer.document["findings"] if each["status"] == "refuse"]
    assert "INV-INIT-ARCH-MATCH-001" in {each["id"] for each in refusals}
    assert all(each["message"].startswith(f"base model {liar}") for each in refusals)


def test_the_name_that_peft_gives_by_itself_may_stand_in_the_names(apr: Apr, adapter: Path, tmp_path: Path) -> None:
    assert apr("preflight", mutate(adapter, tmp_path / "named", named_default)).exit_code == 0


def test_deep_reads_the_values_of_the_base_too(apr: Apr, adapter: Path) -> None:
    findings = apr("preflight", adapter, "--deep", "--json").document["findings"]
    assert any("base model" in each["message"] and each["id"] == VALUES for each in findings)


def test_an_expression_that_never_ends_is_stopped_and_said_to_be_undecided(
    apr: Apr, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apr.gates.adapters.targets.LONGEST_MATCHING_S", 0.5)
    hostile = mutate(adapter, tmp_path / "hostile", same, target_modules="(.*.*)*(.*.*)*x")
    answer = apr("preflight", hostile, "--json")
    assert answer.exit_code == 0
    said = [each for each in answer.document["findings"] if each["id"] == COVERAGE and each["status"] == "unchecked"]
    assert said[0]["message"] == "which modules the config promises to adapt cannot be told from the files"


HOSTILE: dict[str, Any] = {
    "rank_pattern": [1],
    "modules_to_save": 7,
    "layers_to_transform": {"a": 1},
    "layers_pattern": 3,
    "exclude_modules": 3,
    "target_modules": {"q_proj": 1},
    "base_model_name_or_path": "x" * 5000,
    "peft_type": 5,
    "r": 10**400,
    "lora_alpha": float("inf"),
    "target_parameters": 1,
    "layer_replication": "x",
}


@pytest.mark.parametrize("field", HOSTILE)
def test_a_config_of_other_types_is_an_answer_and_no_crash(apr: Apr, adapter: Path, tmp_path: Path, field: str) -> None:
    odd = mutate(adapter, tmp_path / "odd", same, **{field: HOSTILE[field]})
    config = {"layers_to_transform": [0], "layers_pattern": 3} if field == "layers_pattern" else {}
    odd = mutate(odd, tmp_path / "odder", same, **config) if config else odd
    for command in ("preflight", "inspect"):
        answer = apr(command, odd)
        assert answer.exit_code in {0, 4, 5}
        assert "Traceback" not in answer.stderr


def test_several_paths_may_be_models_and_adapters(apr: Apr, adapter: Path, qwen2: Path, tmp_path: Path) -> None:
    faulty = mutate(adapter, tmp_path / "faulty", zero_outputs)
    answer = apr("preflight", qwen2, adapter, faulty, "--json")
    documents = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [each["accepted"] for each in documents] == [True, True, False]
    assert [each["format"] for each in documents] == ["hf", "peft", "peft"]


def test_options_of_adapters_are_refused_for_a_model(apr: Apr, qwen2: Path) -> None:
    answer = apr("preflight", qwen2, "--base", qwen2)
    assert answer.exit_code == 2
    assert "--base and --fresh-adapter are for PEFT adapters" in answer.stderr


def test_commands_that_need_a_model_say_what_an_adapter_is(apr: Apr, adapter: Path, tmp_path: Path) -> None:
    for command in ("import", "export", "lint"):
        answer = apr(command, adapter, *(() if command == "lint" else ("-o", tmp_path / "out")))
        assert answer.exit_code == 4
        assert "a PEFT adapter, which is no model by itself" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_inspect_says_plainly_what_an_adapter_is(apr: Apr, adapter: Path, qwen2: Path) -> None:
    shown = apr("inspect", adapter).stdout
    assert "A PEFT adapter (LORA), no model by itself" in shown
    assert str(qwen2) in shown
    described = apr("inspect", adapter, "--json").document
    assert described["container"] == "peft"
    assert described["adapter"]["adapted_modules"] == {"q_proj": 2, "v_proj": 2}
    assert (described["adapter"]["rank"], described["adapter"]["alpha"]) == (4, 8)


def test_tensors_validate_and_diff_read_an_adapter(apr: Apr, adapter: Path, tmp_path: Path) -> None:
    other = mutate(adapter, tmp_path / "other", one_zero_output)
    assert apr("tensors", adapter, "--json").document["tensor_count"] == 8
    assert apr("validate", adapter, "--json").document["verdict"] == "VALID"
    assert apr("diff", adapter, other, "--values", "--json").document["difference_count"] == 1


def test_an_adapter_needs_neither_torch_nor_peft(adapter: Path) -> None:
    assert not {"torch", "transformers", "peft"} & imported_by("preflight", str(adapter))
