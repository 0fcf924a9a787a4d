"""`apr.verify_loaded`: what loaders and scripts do to weights after a load, caught in the model itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import apr
from apr.formats.recorded import RECORDED_FILE_NAME
from tests.library.conftest import refusal_of, refusing_ids
from tests.tiny_models import CONFIGS, relabel, save_tiny, tiny_model

RECEIPT = "INV-INIT-RECEIPT-001"


def load(path: Path, auto: str = "AutoModelForCausalLM", **options: Any) -> Any:
    import transformers

    return getattr(transformers, auto).from_pretrained(path, **options)


@pytest.mark.parametrize("model_type", ["llama", "gemma", "gpt2", "gpt_neox", "opt", "mamba", "qwen3_moe", "phi3"])
def test_an_honest_load_is_proven(tmp_path: Path, model_type: str) -> None:
    path = save_tiny(tmp_path / model_type, model_type)
    receipt = apr.verify_loaded(load(path), path)
    assert receipt.tensors_written == len(load_file(path / "model.safetensors"))
    assert receipt.source == str(path)
    assert receipt.weights_digest == apr.load_verified(None, path)[1].weights_digest


def test_the_test_families_are_all_known() -> None:
    assert {"llama", "gemma", "gpt2", "gpt_neox", "opt", "mamba", "qwen3_moe", "phi3"} <= CONFIGS.keys()


def test_ties_and_widened_dtypes_are_honest(tied_bfloat16: Path) -> None:
    receipt = apr.verify_loaded(load(tied_bfloat16), tied_bfloat16)
    assert receipt.tensors_written == 26
    assert apr.verify_loaded(load(tied_bfloat16, dtype="float32"), tied_bfloat16).tensors_written == 26


def test_a_model_in_training_mode_stays_in_it(qwen2: Path) -> None:
    model = load(qwen2).train()
    apr.verify_loaded(model, qwen2)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def nudge(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] += 1e-6


def initialise_again(model: Any) -> None:
    model.model.layers[0].self_attn.o_proj.reset_parameters()


def post_load_hook(model: Any) -> None:
    """HF#45591: a pass after loading overwrites tensors that were loaded well."""
    model.model.norm.weight.data.fill_(1.0)


def swap_norms(model: Any) -> None:
    layer = model.model.layers[0]
    layer.input_layernorm, layer.post_attention_layernorm = layer.post_attention_layernorm, layer.input_layernorm


def round_trip(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()


def to_meta(model: Any) -> None:
    model.lm_head.to("meta")


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("damage", [nudge, initialise_again, post_load_hook, swap_norms, round_trip, to_meta])
def test_a_tensor_that_changed_after_the_load_is_refused(qwen2: Path, damage: Callable[[Any], None]) -> None:
    model = load(qwen2)
    apr.verify_loaded(model, qwen2)
    damage(model)
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {RECEIPT}


def test_the_refusal_names_the_tensor(qwen2: Path) -> None:
    model = load(qwen2)
    nudge(model)
    error = refusal_of(lambda: apr.verify_loaded(model, qwen2))
    assert "model.layers.1.mlp.down_proj.weight differs from the file's bytes" in str(error)
    assert str(error).startswith(f"[{RECEIPT}] the model in memory does not hold the weights of the named source")


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_rounding_nobody_declared_is_refused(qwen2: Path, tied_bfloat16: Path) -> None:
    assert refusing_ids(lambda: apr.verify_loaded(load(qwen2, dtype=torch.bfloat16), qwen2)) == {RECEIPT}
    assert refusing_ids(lambda: apr.verify_loaded(load(tied_bfloat16, dtype=torch.float16), tied_bfloat16)) == {RECEIPT}
    rounded = load(qwen2, dtype=torch.bfloat16)
    assert apr.verify_loaded(rounded, qwen2, dtype=torch.bfloat16).tensors_written == 27
    assert refusing_ids(lambda: apr.verify_loaded(rounded, qwen2, dtype="float16")) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
def test_a_derived_buffer_with_other_values_is_refused(qwen2: Path) -> None:
    model = load(qwen2)
    model.model.rotary_emb.inv_freq[2] *= 1.01
    assert refusing_ids(lambda: apr.verify_loaded(model, qwen2)) == {"INV-INIT-BUFFERS-001"}
    halved = load(qwen2).to(torch.bfloat16)
    assert "INV-INIT-BUFFERS-001" in refusing_ids(lambda: apr.verify_loaded(halved, qwen2, dtype="bfloat16"))


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
def test_a_config_changed_in_memory_is_refused_and_a_running_option_is_not(qwen2: Path) -> None:
    model = load(qwen2)
    model.config.use_cache = False
    model.config.attention_dropout = 0.1
    model.config.pad_token_id = 3
    apr.verify_loaded(model, qwen2)
    model = load(qwen2, rms_norm_eps=1e-3)
    error = refusal_of(lambda: apr.verify_loaded(model, qwen2))
    assert error.invariant == "INV-INIT-CONFIG-001"
    assert "rms_norm_eps = 0.001" in str(error)
    reason = {"INV-INIT-CONFIG-001": "a wider epsilon is the experiment"}
    assert apr.verify_loaded(model, qwen2, allowed_gates=reason).tensors_written == 27


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_the_founding_story_is_refused_in_memory(qwen2: Path, tmp_path: Path) -> None:
    copy = relabel(Path(shutil.copytree(qwen2, tmp_path / "copy")), "llama", "LlamaForCausalLM")
    ids = refusing_ids(lambda: apr.verify_loaded(load(copy), copy))
    assert {"INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001"} <= ids


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_name_twin_is_told_by_its_class(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "gemma", "gemma")
    error = refusal_of(lambda: apr.verify_loaded(load(path, "LlamaForCausalLM"), path))
    assert error.invariant == "INV-INIT-ARCH-MATCH-001"
    assert "the model is a LlamaForCausalLM (llama), the checkpoint says gemma" in str(error)


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_missing_tensor_that_was_initialised_is_refused(qwen2: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    state = load_file(copy / "model.safetensors")
    del state["model.layers.1.self_attn.o_proj.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: apr.verify_loaded(load(copy), copy))


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
def test_ignored_sizes_are_refused(qwen2: Path) -> None:
    model = load(qwen2, vocab_size=300, ignore_mismatched_sizes=True)
    assert "INV-INIT-SHAPE-001" in refusing_ids(lambda: apr.verify_loaded(model, qwen2))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_ties_that_file_and_memory_see_differently_are_refused(qwen2: Path, tied_bfloat16: Path) -> None:
    untied = load(tied_bfloat16)
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: apr.verify_loaded(untied, tied_bfloat16))
    tied = load(qwen2)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert "INV-INIT-VALUES-001" in refusing_ids(lambda: apr.verify_loaded(tied, qwen2))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_another_head_is_a_matter_of_naming_it(tied_bfloat16: Path, qwen2: Path) -> None:
    assert apr.verify_loaded(load(tied_bfloat16, "AutoModel"), tied_bfloat16).tensors_written == 26
    assert refusing_ids(lambda: apr.verify_loaded(load(qwen2, "AutoModel"), qwen2)) == {"INV-INIT-COVERAGE-001"}
    classifier = load(tied_bfloat16, "AutoModelForSequenceClassification", num_labels=3)
    error = refusal_of(lambda: apr.verify_loaded(classifier, tied_bfloat16))
    assert "1 model tensors would not be filled: score.weight" in str(error)
    assert "allowed_tensors={'score.weight': 'REASON'}" in str(error)
    allowed = {"score.weight": "the head that this run trains"}
    assert apr.verify_loaded(classifier, tied_bfloat16, allowed_tensors=allowed).tensors_written == 26


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_damaged_file_is_no_source_of_proof(qwen2: Path, tmp_path: Path) -> None:
    model = load(qwen2)
    copy = Path(shutil.copytree(qwen2, tmp_path / "copy"))
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-64])
    assert refusing_ids(lambda: apr.verify_loaded(model, copy)) == {"INV-FILE-INTEGRITY-001"}


def with_probe(path: Path) -> Path:
    """Record what the saved model does on the probe beside it, as a run of ours does."""
    import json

    from apr.formats.recorded import NOTHING_RECORDED
    from apr.loading.probe import record_probe

    recorded = NOTHING_RECORDED._replace(probe=record_probe(load(path)))
    (path / RECORDED_FILE_NAME).write_text(json.dumps(recorded.to_json()))
    return path


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_recorded_probe_is_replayed(tmp_path: Path) -> None:
    path = with_probe(save_tiny(tmp_path / "model", "qwen2"))
    model = load(path)
    apr.verify_loaded(model, path)
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert refusing_ids(lambda: apr.verify_loaded(model, path)) == {"INV-INIT-PROBE-001"}
    assert apr.verify_loaded(model, path, probe=False).tensors_written == 27


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_model_that_raises_on_the_probe_is_refused_with_what_it_raised(tmp_path: Path) -> None:
    path = with_probe(save_tiny(tmp_path / "model", "qwen2"))
    model = load(path)

    def fail(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    model.model.layers[0].register_forward_hook(fail)
    error = refusal_of(lambda: apr.verify_loaded(model, path))
    assert error.invariant == "INV-INIT-PROBE-001"
    assert "RuntimeError: no such kernel" in str(error)


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.parametrize("field", ["is_causal", "sliding_window", "attention_chunk_size"])
def test_a_field_that_no_class_declares_and_the_zoo_reads_all_the_same_is_compared(tmp_path: Path, field: str) -> None:
    path = save_tiny(tmp_path / "model", "llama")
    model = load(path)
    apr.verify_loaded(model, path)
    setattr(model.config, field, False if field == "is_causal" else 4)
    assert refusing_ids(lambda: apr.verify_loaded(model, path)) == {"INV-INIT-CONFIG-001"}
    setattr(model.config, field, None)
    model.config.a_field_of_my_own = 4
    apr.verify_loaded(model, path)


def test_training_goes_on_after_the_proof(tmp_path: Path) -> None:
    path = with_probe(save_tiny(tmp_path / "model", "qwen2"))
    model = load(path).train()
    apr.verify_loaded(model, path)
    ids = torch.arange(16)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_module_of_ones_own_is_proven_by_a_name_map(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    save_file({f"net.{name}": value for name, value in module.state_dict().items()}, tmp_path / "own.safetensors")
    receipt = apr.verify_loaded(module, tmp_path / "own.safetensors", name_map=lambda name: name.removeprefix("net."))
    assert set(receipt.resident_digests) == {"net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"}
    module[0].weight.data[0, 0] += 1
    assert refusing_ids(
        lambda: apr.verify_loaded(module, tmp_path / "own.safetensors", name_map=lambda name: name.removeprefix("net."))
    ) == {RECEIPT}


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_mislabelled_directory_is_refused_for_a_module_of_ones_own_too(qwen2: Path, tmp_path: Path) -> None:
    copy = relabel(Path(shutil.copytree(qwen2, tmp_path / "copy")), "llama", "LlamaForCausalLM")

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("qwen2")

    model = Own()
    apr.load_verified(model, qwen2, name_map=lambda name: f"inner.{name}")
    ids = refusing_ids(lambda: apr.verify_loaded(model, copy, name_map=lambda name: f"inner.{name}"))
    assert "INV-INIT-ARCH-MATCH-001" in ids


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.planted_defect(RECEIPT)
def test_a_model_class_of_ones_own_is_proven_by_its_own_config(tmp_path: Path) -> None:
    import transformers

    import apr.hf

    class OwnConfig(transformers.PretrainedConfig):  # type: ignore[misc]
        model_type = "own_network"

        def __init__(self, slope: float = 2.0, **options: Any) -> None:
            super().__init__(**options)
            self.slope = slope

    class OwnModel(transformers.PreTrainedModel):  # type: ignore[misc]
        config_class = OwnConfig

        def __init__(self, config: OwnConfig) -> None:
            super().__init__(config)
            self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
            self.post_init()

    OwnModel(OwnConfig()).save_pretrained(tmp_path)
    model = apr.hf.from_pretrained(OwnModel, tmp_path)
    assert apr.verify_loaded(model, tmp_path).tensors_written == 4
    assert apr.load_verified(OwnModel, tmp_path)[1].tensors_written == 4
    model.config.slope = 3.0
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {"INV-INIT-CONFIG-001"}
    model.config.slope = 2.0
    model.first.reset_parameters()
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {RECEIPT}


def test_a_class_that_keeps_parts_in_float32_is_honest(tmp_path: Path) -> None:
    import transformers

    config = transformers.DeepseekV3Config(
        **{**CONFIGS["llama"], "num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
    )
    model = transformers.DeepseekV3ForCausalLM(config)
    for name, buffer in model.named_buffers():
        if "correction" in name:
            buffer.normal_()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded, receipt = apr.load_verified(None, tmp_path)
    kept = {str(tensor.dtype) for name, tensor in loaded.state_dict().items() if "correction" in name}
    assert kept == {"torch.float32"}
    assert apr.verify_loaded(load(tmp_path), tmp_path).weights_digest == receipt.weights_digest
