"""The corpus: every class of the failure catalogue as faults of small real checkpoints, and healthy twins beside them.

A fault names the gate that has to refuse it, words that the refusal has to say, and the first stage that can see it:
headers (no byte of a tensor read), deep (every byte read), load (a model resident, its probe replayed).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.faults.checkpoints import APR, CONTAINERS, HF, SHARDED, Draft, healthy
from tests.faults.edits import (
    Edit,
    added,
    configured,
    edit_json,
    on_disk,
    on_load,
    prefixed,
    relabel,
    substituted,
    swapped,
    tensors,
    together,
    unpinned,
    weight_files,
    without,
)
from tests.faults.tokenizers import tokenizer_files

ARCH, AGREE, COVERAGE, SHAPE = (
    "INV-INIT-ARCH-MATCH-001",
    "INV-STAMP-AGREE-001",
    "INV-INIT-COVERAGE-001",
    "INV-INIT-SHAPE-001",
)
CONFIG, VALUES, INTEGRITY = "INV-INIT-CONFIG-001", "INV-INIT-VALUES-001", "INV-FILE-INTEGRITY-001"
RECEIPT, BUFFERS, PROBE, LINEAGE = (
    "INV-INIT-RECEIPT-001",
    "INV-INIT-BUFFERS-001",
    "INV-INIT-PROBE-001",
    "INV-LINEAGE-001",
)
EXISTS, RECOGNISED, PRESENT = (f"FALSIFY-APR-PRETRAIN-INIT-00{number}" for number in (3, 4, 5))
FITS, SAME = "FALSIFY-APR-PRETRAIN-ARCH-009", "FALSIFY-APR-PRETRAIN-ARCH-010"

RECORDING = (HF, SHARDED, APR)
DIRECTORIES = (HF, SHARDED)
HEADERS, DEEP, LOAD = "headers", "deep", "load"


@dataclass(frozen=True)
class Fault:
    """One planted defect. says: words of the refusal. base, options: the healthy checkpoint it starts from."""

    letter: str
    name: str
    edit: Edit
    expected_id: str
    stage: str = HEADERS
    says: str = ""
    base: str = "qwen2"
    containers: tuple[str, ...] = CONTAINERS
    options: dict[str, Any] = field(default_factory=dict)

    def draft(self) -> Draft:
        draft = healthy(self.base, **self.options)
        self.edit(draft)
        return draft


def _zero_end(tensor: torch.Tensor) -> None:
    tensor.view(-1)[tensor.numel() // 2 :] = 0


def _hollow(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((0,))


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)) * 0.02


def _fp8(
    draft: Draft, *, suffix: str | None = "_scale_inv", names: str = r"_proj\.weight$", declared: bool = True
) -> None:
    """Store projections in 8 bits with their scale, as published FP8 checkpoints do."""
    for name in [name for name in draft.state if name.endswith("_proj.weight")]:
        weight = draft.state[name]
        scale = weight.abs().max() / 448
        draft.state[name] = (weight / scale).to(torch.float8_e4m3fn)
        if suffix is not None:
            draft.state[name + suffix] = scale.reshape(1, 1)
    if declared:
        draft.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    # A rounded model behaves a little otherwise; its own probe would be recorded after rounding.
    draft.recorded = type(draft.recorded)()


def _fp8_lacking(pattern: str, **options: Any) -> Edit:
    def edit(draft: Draft) -> None:
        _fp8(draft, **options)
        without(pattern)(draft)

    return edit


def _eights(pattern: str, dtype: torch.dtype) -> Edit:
    return tensors(pattern, lambda tensor: (tensor * 100).to(dtype))


def _corrupt(draft: Draft) -> None:
    """The bytes that a damaged disk gives back, beside the digests of the right ones."""

    from blake3 import blake3

    from apr.loading.on_disk import tensor_bytes

    digests = {name: blake3(tensor_bytes(tensor.contiguous())).hexdigest() for name, tensor in draft.state.items()}
    draft.recorded = draft.recorded._replace(tensor_digests=digests)

    def flip(path):
        for file in weight_files(path)[-1:]:
            raw = bytearray(file.read_bytes())
            raw[-5] ^= 0x10
            file.write_bytes(raw)

    draft.after.append(flip)


def _shorten(path) -> None:
    file = weight_files(path)[-1]
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 200)


def _remove(name: str) -> Callable[[Any], None]:
    return lambda path: (path / name).unlink()


def _retell_index(change: Callable[[dict[str, Any]], None]) -> Edit:
    return on_disk(lambda path: edit_json(path / "model.safetensors.index.json", change))


def _name_absent_shard(index: dict[str, Any]) -> None:
    first = min(index["weight_map"])
    index["weight_map"][first] = "model-00003-of-00003.safetensors"


def _forget_one(index: dict[str, Any]) -> None:
    index["weight_map"]["model.layers.9.extra.weight"] = "model-00001-of-00002.safetensors"


def _empty(path) -> None:
    for file in weight_files(path):
        file.write_bytes(b"")


def _emptied_directory(path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink()


def _gone(path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _permuted(tensor: torch.Tensor, heads: int = 4) -> torch.Tensor:
    """The permutation between Meta's and Hugging Face's rotary layouts of q and k."""
    rows, columns = tensor.shape
    return tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def _model(change: Callable[[Any], None]) -> Edit:
    def without_grad(model: Any) -> None:
        with torch.no_grad():
            change(model)

    return on_load(without_grad)


def _rotary(change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(model: Any) -> None:
        rotary = model.model.rotary_emb
        rotary.inv_freq = change(rotary.inv_freq)

    return _model(edit)


def _untied_on_load(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())


def _unrecorded(draft: Draft) -> None:
    draft.recorded = type(draft.recorded)()


def _tokenizer(*, recorded: dict[str, bytes], used: dict[str, bytes]) -> Edit:
    def edit(draft: Draft) -> None:
        draft.tokenizer_files = recorded
        draft.tokenizer = used

    return edit


TIED = {"tie_word_embeddings": True}
THIRD = r"layers\.3\."
QKV = r"self_attn\.[qkv]_proj"

FAULTS: tuple[Fault, ...] = (
    # A. False identity
    Fault(
        "A", "qwen2 stamped llama", relabel("llama", "LlamaForCausalLM"), ARCH, says="12 unused", containers=RECORDING
    ),
    Fault("A", "llama stamped qwen2", relabel("qwen2", "Qwen2ForCausalLM"), ARCH, says="12 unfilled", base="llama"),
    Fault("A", "qwen3 stamped llama", relabel("llama", "LlamaForCausalLM"), ARCH, says="8 unused", base="qwen3"),
    Fault("A", "phi3 stamped llama", relabel("llama", "LlamaForCausalLM"), ARCH, base="phi3"),
    Fault("A", "gpt2 stamped llama", relabel("llama", "LlamaForCausalLM"), ARCH, base="gpt2"),
    Fault("A", "only the class is false", relabel(None, "LlamaForCausalLM"), AGREE, says="LlamaForCausalLM"),
    Fault("A", "only the model type is false", relabel("llama", None), AGREE, says="llama"),
    Fault("A", "a wrapper's name as class", relabel(None, "FSDPQwen2ForCausalLM"), AGREE, says="FSDPQwen2ForCausalLM"),
    Fault("A", "gemma stamped llama", relabel("llama", "LlamaForCausalLM"), VALUES, DEEP, "gemma", "gemma"),
    Fault(
        "A", "llama stamped gemma", relabel("gemma", "GemmaForCausalLM"), VALUES, DEEP, "llama", "llama", options=TIED
    ),
    Fault(
        "A",
        "a reward head under a generation class",
        together(without("^lm_head"), added("score.weight", torch.randn(1, 64))),
        COVERAGE,
        says="score.weight",
    ),
    Fault(
        "A",
        "no stamp at all",
        lambda draft: [draft.config.pop(key) for key in ("model_type", "architectures")] and None,
        PRESENT,
        says="does not say what it is",
    ),
    # B. Name-space shift
    Fault("B", "torch.compile", prefixed("_orig_mod."), COVERAGE, says="51 names carry `_orig_mod.`"),
    Fault("B", "DataParallel", prefixed("module."), COVERAGE, says="51 names carry `module.`"),
    Fault("B", "PEFT", prefixed("base_model.model."), COVERAGE, says="names carry `base_model.`"),
    Fault(
        "B",
        "FSDP inside",
        substituted(r"layers\.(\d+)\.", r"layers.\1._fsdp_wrapped_module."),
        COVERAGE,
        says="48 names carry `_fsdp_wrapped_module.`",
    ),
    Fault(
        "B",
        "activation checkpointing inside",
        substituted(r"\.mlp\.", "._checkpoint_wrapped_module.mlp."),
        COVERAGE,
        says="_checkpoint_wrapped_module",
    ),
    Fault("B", "doubled prefix", prefixed("model."), COVERAGE, says="prefix `model.`"),
    Fault("B", "base prefix lost", substituted(r"^model\.", ""), COVERAGE, says="lack the prefix `model.`"),
    Fault("B", "prefix cut by length", substituted(r"^model\.", "el."), COVERAGE, says="el.embed_tokens.weight"),
    Fault("B", "another prefix", substituted(r"^model\.", "transformer."), COVERAGE, says="transformer."),
    Fault(
        "B",
        "flattened FSDP parameters",
        lambda draft: setattr(
            draft, "state", {"model._flat_param": torch.cat([each.reshape(-1) for each in draft.state.values()])}
        ),
        COVERAGE,
        says="flattened FSDP",
    ),
    # C. Tolerated partial load
    Fault("C", "q/k/v biases dropped", without(QKV + r"\.bias"), COVERAGE, says="12"),
    Fault(
        "C",
        "one norm missing",
        without(r"layers\.2\.input_layernorm"),
        COVERAGE,
        says="model.layers.2.input_layernorm.weight",
    ),
    Fault("C", "the last layer missing", without(THIRD), COVERAGE, says="layers.3.", containers=RECORDING),
    Fault(
        "C",
        "a config of more layers",
        configured(num_hidden_layers=6),
        COVERAGE,
        says="layers.{4–5}",
        containers=RECORDING,
    ),
    Fault(
        "C",
        "a config of fewer layers",
        configured(num_hidden_layers=2),
        COVERAGE,
        says="layers.{2–3}",
        containers=RECORDING,
    ),
    Fault("C", "norms renamed gamma", substituted(r"norm\.weight$", "norm.gamma"), COVERAGE, says="gamma"),
    Fault(
        "C",
        "extra tensors nobody asked for",
        added("model.layers.1.mlp.extra_proj.weight", torch.randn(8, 8)),
        COVERAGE,
        says="extra_proj",
    ),
    Fault(
        "C",
        "a fused projection of another producer",
        lambda draft: draft.state.update(
            {
                "model.layers.0.self_attn.W_pack.weight": torch.cat(
                    [draft.state.pop(f"model.layers.0.self_attn.{each}_proj.weight") for each in "qkv"]
                )
            }
        ),
        COVERAGE,
        says="W_pack",
    ),
    Fault(
        "C",
        "a head that was trained apart is missing",
        without("^lm_head"),
        COVERAGE,
        says="lm_head.weight",
        containers=RECORDING,
    ),
    # D. Load never happened
    Fault("D", "the path is gone", on_disk(_gone), EXISTS),
    Fault("D", "an empty directory", on_disk(_emptied_directory), INTEGRITY, containers=DIRECTORIES),
    Fault("D", "empty files", on_disk(_empty), RECOGNISED, containers=(APR,)),
    Fault("D", "empty weight files", on_disk(_empty), RECOGNISED, containers=DIRECTORIES),
    Fault("D", "a config and no weights", on_disk(_remove("model.safetensors")), INTEGRITY, containers=(HF,)),
    Fault("D", "weights under one more key", prefixed("model_state_dict."), COVERAGE, says="model_state_dict."),
    Fault(
        "D",
        "nothing but optimizer state",
        lambda draft: setattr(draft, "state", {f"exp_avg.{name}": each for name, each in draft.state.items()}),
        COVERAGE,
        says="exp_avg",
    ),
    Fault("D", "no tensors", lambda draft: setattr(draft, "state", {}), RECOGNISED, containers=(HF, APR)),
    # E. Loaded, then lost
    Fault(
        "E",
        "a matrix drawn anew",
        _model(lambda model: model.model.layers[1].mlp.up_proj.weight.normal_(0, 0.02)),
        RECEIPT,
        LOAD,
        "up_proj",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "a bias at zero again",
        _model(lambda model: model.model.layers[1].self_attn.q_proj.bias.zero_()),
        RECEIPT,
        LOAD,
        "q_proj.bias",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "a throw-away buffer",
        _model(
            lambda model: setattr(
                model.lm_head, "weight", torch.nn.Parameter(torch.empty_like(model.lm_head.weight).fill_(3))
            )
        ),
        RECEIPT,
        LOAD,
        "lm_head",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "raw memory",
        _model(lambda model: model.model.norm.weight.fill_(float("nan"))),
        RECEIPT,
        LOAD,
        "model.norm.weight",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "two layers exchanged",
        _model(lambda model: model.model.layers.insert(0, model.model.layers.pop(1))),
        RECEIPT,
        LOAD,
        "layers.0",
        containers=RECORDING,
    ),
    Fault(
        "E",
        "everything initialised after the load",
        _model(lambda model: [each.normal_(0, 0.02) for each in model.parameters()] and None),
        RECEIPT,
        LOAD,
        containers=RECORDING,
    ),
    Fault("E", "a tie undone", _model(_untied_on_load), RECEIPT, LOAD, "lm_head", containers=RECORDING, options=TIED),
    # F. Derived buffers
    Fault(
        "F",
        "raw memory as rotary table",
        _rotary(lambda table: torch.full_like(table, 1e30)),
        BUFFERS,
        LOAD,
        "inv_freq",
        containers=RECORDING,
    ),
    Fault("F", "zeros as rotary table", _rotary(torch.zeros_like), BUFFERS, LOAD, containers=RECORDING),
    Fault(
        "F", "NaN in the rotary table", _rotary(lambda table: table * float("nan")), BUFFERS, LOAD, containers=RECORDING
    ),
    Fault("F", "finite and wrong", _rotary(lambda table: table * 1.0001), BUFFERS, LOAD, containers=RECORDING),
    Fault("F", "rounded to bf16", _rotary(lambda table: table.bfloat16().float()), BUFFERS, LOAD, containers=RECORDING),
    Fault(
        "F",
        "float bits read as bf16",
        _rotary(lambda table: table.view(torch.bfloat16)[: table.numel()].float()),
        BUFFERS,
        LOAD,
        containers=RECORDING,
    ),
    Fault("F", "another dtype", _rotary(lambda table: table.double()), BUFFERS, LOAD, containers=RECORDING),
    # G. Hollow distributed save
    Fault(
        "G",
        "one hollow matrix",
        tensors(r"layers\.1\.mlp\.up_proj", _hollow),
        SHAPE,
        says="up_proj",
        containers=RECORDING,
    ),
    Fault("G", "hollow norms", tensors(r"norm\.weight", _hollow), SHAPE, containers=RECORDING),
    Fault("G", "everything hollow", tensors(r".", _hollow), SHAPE, containers=RECORDING),
    Fault(
        "G", "a hollow embedding", tensors(r"embed_tokens", _hollow), SHAPE, says="embed_tokens", containers=RECORDING
    ),
    Fault("G", "a hollow head", tensors(r"lm_head", _hollow), SHAPE, says="lm_head", containers=RECORDING),
    Fault(
        "G",
        "a flattened embedding",
        tensors(r"embed_tokens", lambda tensor: tensor.reshape(-1)),
        SHAPE,
        says="embed_tokens",
        containers=RECORDING,
    ),
    Fault("G", "no rows", tensors(r"embed_tokens|lm_head", lambda tensor: tensor[:0]), SHAPE, containers=RECORDING),
    Fault(
        "G",
        "half of the rows of one rank",
        tensors(r"down_proj", lambda tensor: tensor[: len(tensor) // 2].clone()),
        SHAPE,
        says="down_proj",
        containers=RECORDING,
    ),
    # H. Damaged or incomplete files
    Fault(
        "H",
        "a shard is missing",
        on_disk(_remove("model-00002-of-00002.safetensors")),
        INTEGRITY,
        says="model-00002-of-00002",
        containers=(SHARDED,),
    ),
    Fault(
        "H",
        "the index names an absent shard",
        _retell_index(_name_absent_shard),
        INTEGRITY,
        says="model-00003-of-00003",
        containers=(SHARDED,),
    ),
    Fault(
        "H",
        "the index names an absent tensor",
        _retell_index(_forget_one),
        INTEGRITY,
        says="model.layers.9.extra.weight",
        containers=(SHARDED,),
    ),
    Fault("H", "a file that ends early", on_disk(_shorten), INTEGRITY),
    Fault(
        "H",
        "all-zero v_proj",
        tensors(r"v_proj\.weight", lambda tensor: tensor.zero_()),
        VALUES,
        DEEP,
        "zero everywhere",
    ),
    Fault(
        "H",
        "zeros from the middle on",
        tensors(r"layers\.2\.mlp\.up_proj", _zero_end),
        VALUES,
        DEEP,
        "nothing but zeros",
    ),
    Fault(
        "H",
        "NaN in one value",
        tensors(r"layers\.2\.mlp\.up_proj", lambda tensor: tensor.view(-1)[3:4].fill_(float("nan")) and None),
        VALUES,
        DEEP,
        "NaN",
    ),
    Fault("H", "one wrong byte beside right digests", _corrupt, LINEAGE, DEEP, containers=DIRECTORIES),
    Fault(
        "H",
        "one layer still at its initialisation",
        tensors(r"layers\.2\.mlp\.down_proj", _fresh),
        VALUES,
        DEEP,
        "fresh initialisation",
        containers=RECORDING,
    ),
    Fault(
        "H",
        "a head still at its initialisation",
        tensors(r"lm_head", _fresh),
        VALUES,
        DEEP,
        "lm_head",
        containers=RECORDING,
    ),
    # I. Right names, wrong layout
    Fault("I", "q permuted", tensors(r"q_proj\.weight", _permuted), PROBE, LOAD, containers=RECORDING),
    Fault(
        "I",
        "k permuted",
        tensors(r"k_proj\.weight", lambda tensor: _permuted(tensor, 2)),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "I",
        "norms exchanged",
        swapped(THIRD, "input_layernorm", "post_attention_layernorm"),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault("I", "gate and up exchanged", swapped("mlp", "gate_proj", "up_proj"), PROBE, LOAD, containers=RECORDING),
    Fault(
        "I",
        "two layers exchanged",
        swapped(r"layers\.1\.", "layers.1.", "layers.2."),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "I",
        "a square matrix transposed",
        tensors(r"o_proj", lambda tensor: tensor.T.contiguous()),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "I",
        "rows one down",
        tensors(r"embed_tokens", lambda tensor: tensor.roll(1, 0)),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "I",
        "gemma's one added twice",
        tensors("norm", lambda tensor: tensor + 1),
        VALUES,
        DEEP,
        "around 1",
        "gemma",
        options={"tie_word_embeddings": True},
    ),
    Fault(
        "I",
        "the one taken away from llama",
        tensors("norm", lambda tensor: tensor - 1),
        VALUES,
        DEEP,
        "around 0",
        "llama",
    ),
    # J. Tie contradiction
    Fault(
        "J",
        "tied by config, another head stored",
        together(unpinned, configured(**TIED), added("lm_head.weight", torch.randn(320, 64))),
        VALUES,
        DEEP,
        "ties lm_head.weight",
        containers=RECORDING,
    ),
    Fault(
        "J",
        "untied by config, no head",
        together(configured(tie_word_embeddings=False)),
        COVERAGE,
        says="lm_head.weight",
        containers=RECORDING,
        options=TIED,
    ),
    Fault(
        "J",
        "tie forced on a trained head",
        together(unpinned, configured(**TIED)),
        VALUES,
        DEEP,
        "lm_head.weight",
        base="llama",
        containers=RECORDING,
    ),
    Fault(
        "J",
        "the head kept, the embedding dropped",
        without("embed_tokens"),
        COVERAGE,
        says="embed_tokens",
        containers=RECORDING,
    ),
    Fault(
        "J",
        "tied, and neither stored",
        without("embed_tokens"),
        COVERAGE,
        says="embed_tokens",
        containers=RECORDING,
        options=TIED,
    ),
    Fault(
        "J",
        "tied by config, a head of other rows",
        together(configured(**TIED), tensors("^lm_head", lambda tensor: tensor[:300].clone())),
        SHAPE,
        says="lm_head",
        containers=RECORDING,
    ),
    # K. Config drift
    Fault(
        "K",
        "rope base",
        configured(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        CONFIG,
        says="rope",
        containers=RECORDING,
    ),
    Fault("K", "norm epsilon", configured(rms_norm_eps=1e-3), CONFIG, says="rms_norm_eps", containers=RECORDING),
    Fault("K", "activation", configured(hidden_act="gelu"), CONFIG, says="hidden_act", containers=RECORDING),
    Fault(
        "K",
        "head split",
        configured(num_attention_heads=2, num_key_value_heads=1),
        CONFIG,
        says="num_attention_heads",
        containers=RECORDING,
    ),
    Fault(
        "K",
        "rope scaling gone",
        together(configured(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})),
        CONFIG,
        says="rope",
        containers=RECORDING,
    ),
    Fault(
        "K",
        "rope base, unpinned",
        together(unpinned, configured(rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "K",
        "norm epsilon, unpinned",
        together(unpinned, configured(rms_norm_eps=1e-1)),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault(
        "K",
        "head split, unpinned",
        together(unpinned, configured(num_attention_heads=2, num_key_value_heads=1)),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    Fault("K", "two rope bases", configured(rope_theta=500.0), CONFIG, says="rope_theta", containers=RECORDING),
    # L. Encoding loss
    Fault(
        "L", "all scales dropped", _fp8_lacking("_scale_inv"), COVERAGE, says="lack their scale", containers=DIRECTORIES
    ),
    Fault(
        "L",
        "some scales dropped",
        _fp8_lacking(r"layers\.1\..*_scale_inv"),
        COVERAGE,
        says="7 tensors (F8_E4M3) lack their scale",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "scales dropped and the declaration too",
        _fp8_lacking("_scale_inv", declared=False),
        VALUES,
        DEEP,
        "fill the range",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "a spelling of scales nobody knows",
        lambda draft: _fp8(draft, suffix=".scales"),
        COVERAGE,
        says="scales",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "8-bit integers read raw",
        _eights(r"_proj\.weight$", torch.int8),
        COVERAGE,
        says="(I8) lack their scale",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "packed bytes under the weight's name",
        tensors(r"_proj\.weight$", lambda tensor: torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)),
        SHAPE,
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "qweight read by nobody",
        together(_eights(r"_proj\.weight$", torch.int32), substituted(r"_proj\.weight$", "_proj.qweight")),
        COVERAGE,
        says="qweight",
        containers=DIRECTORIES,
    ),
    Fault(
        "L",
        "fp16 overflow",
        tensors(r"layers\.0\.mlp\.up_proj", lambda tensor: (tensor * 1e6).half()),
        VALUES,
        DEEP,
        "infinite",
    ),
    Fault(
        "L",
        "bf16 bytes labelled fp16",
        tensors(r"_proj\.weight$", lambda tensor: tensor.bfloat16().view(torch.float16)),
        PROBE,
        LOAD,
        containers=DIRECTORIES,
    ),
    # M. Adapter no-op
    Fault(
        "M",
        "adapters beside a base that ignores them",
        added("model.layers.0.self_attn.q_proj.lora_B.weight", torch.zeros(64, 4)),
        COVERAGE,
        says="lora_B",
    ),
    Fault(
        "M",
        "an adapter without its base",
        lambda draft: setattr(
            draft,
            "state",
            {
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(4, 64),
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.zeros(64, 4),
            },
        ),
        COVERAGE,
        says="lora",
    ),
    Fault(
        "M",
        "base layers inside the adapter's wrapper",
        substituted(r"(q_proj|v_proj)\.", r"\1.base_layer."),
        COVERAGE,
        says="base_layer",
    ),
    Fault("M", "a merged model under the adapter's names", prefixed("base_model.model."), COVERAGE, says="base_model."),
    Fault(
        "M",
        "compiled adapter names",
        lambda draft: draft.state.update(
            {f"_orig_mod.{name}.lora_A.weight": torch.randn(4, 64) for name in ("a", "b")}
        ),
        COVERAGE,
        says="2 names carry `_orig_mod.`",
    ),
    Fault(
        "M",
        "an adapter lost on the way into the model",
        _model(lambda model: model.model.layers[0].self_attn.q_proj.weight.sub_(0.01)),
        RECEIPT,
        LOAD,
        "q_proj",
        containers=RECORDING,
    ),
    Fault(
        "M",
        "an unmerged base under the merged record",
        tensors(
            r"q_proj\.weight",
            lambda tensor: tensor + 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)),
        ),
        PROBE,
        LOAD,
        containers=RECORDING,
    ),
    # N. Tokenizer contradiction
    Fault(
        "N",
        "a larger vocabulary recorded",
        _tokenizer(recorded=tokenizer_files(400), used=tokenizer_files(400)),
        FITS,
        says="no embedding",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "a larger vocabulary given",
        lambda draft: setattr(draft, "tokenizer", tokenizer_files(400)),
        FITS,
        says="no embedding",
    ),
    Fault(
        "N",
        "one row too many",
        lambda draft: setattr(draft, "tokenizer", tokenizer_files(321)),
        FITS,
        says="no embedding",
    ),
    Fault(
        "N",
        "shuffled vocabulary",
        _tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, shuffled=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "another pre-tokenizer",
        _tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, prefix_space=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "another normaliser",
        _tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(300, lowercase=True)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
    Fault(
        "N",
        "fewer merges",
        _tokenizer(recorded=tokenizer_files(300), used=tokenizer_files(280)),
        SAME,
        says="other ids",
        containers=DIRECTORIES,
    ),
)


@dataclass(frozen=True)
class Twin:
    """A healthy checkpoint that looks like one of the faults. letter: the class it stands beside."""

    letter: str
    name: str
    edit: Edit = lambda draft: None
    base: str = "qwen2"
    containers: tuple[str, ...] = RECORDING
    options: dict[str, Any] = field(default_factory=dict)
    allowed: dict[str, str] = field(default_factory=dict)

    def draft(self) -> Draft:
        draft = healthy(self.base, **self.options)
        self.edit(draft)
        return draft


def _cast(dtype: torch.dtype) -> Edit:
    def edit(draft: Draft) -> None:
        draft.state = {name: tensor.to(dtype) for name, tensor in draft.state.items()}
        _unrecorded(draft)

    return edit


def _padded(draft: Draft) -> None:
    """Rows of the embedding for ids that the tokenizer never gives, left at zero."""
    draft.tokenizer_files = tokenizer_files(300)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        draft.state[name][300:] = 0
    _unrecorded(draft)


def _respelled(draft: Draft) -> None:
    parameters = draft.config.pop("rope_parameters")
    draft.config |= {"rope_theta": parameters["rope_theta"], "rope_scaling": None}


def _quiet(edit: Edit) -> Edit:
    return together(edit, _unrecorded)


ZERO_BIASES = _quiet(tensors(r"\.bias$", lambda tensor: tensor.zero_()))
LORA = "model.layers.0.self_attn.q_proj.lora_B.weight"

TWINS: tuple[Twin, ...] = (
    Twin("A", "qwen2"),
    Twin("A", "llama", base="llama"),
    Twin("A", "gemma", base="gemma"),
    Twin("A", "phi3, fused qkv", base="phi3"),
    Twin("A", "gpt2", base="gpt2"),
    Twin("A", "biased llama", base="llama", options={"attention_bias": True, "mlp_bias": True}),
    Twin("B", "qwen3", base="qwen3"),
    Twin("C", "mixture of experts", base="qwen3_moe"),
    Twin("C", "zero-initialised biases", ZERO_BIASES),
    Twin("D", "all kinds of names", base="gpt_neox"),
    Twin("E", "loaded and left alone", base="mistral"),
    Twin(
        "F",
        "scaled rotary table",
        base="llama",
        options={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    Twin("G", "one layer", options={"num_hidden_layers": 1}),
    Twin(
        "H",
        "fresh as a whole",
        _quiet(tensors(r"_proj\.weight|embed|head", lambda tensor: torch.randn(tensor.shape) * 0.02)),
    ),
    Twin("H", "padded vocabulary", _padded, containers=DIRECTORIES),
    Twin(
        "I", "gemma, gains at their initial zero", _quiet(tensors("norm", lambda tensor: tensor.zero_())), base="gemma"
    ),
    Twin(
        "I", "llama, gains at their initial one", _quiet(tensors("norm", lambda tensor: tensor.fill_(1))), base="llama"
    ),
    Twin("I", "llama, small gains", _quiet(tensors("norm", lambda tensor: tensor.abs_().mul_(0.1))), base="llama"),
    Twin("J", "tied", options=TIED),
    Twin("J", "untied", options={"tie_word_embeddings": False}),
    Twin(
        "J",
        "tied, stored again",
        lambda draft: draft.state.update({"lm_head.weight": draft.state["model.embed_tokens.weight"].clone()}),
        options=TIED,
    ),
    Twin("K", "rope in the older spelling", _respelled),
    Twin("L", "bf16", _cast(torch.bfloat16)),
    Twin("L", "fp16", _cast(torch.float16)),
    Twin("L", "fp8 with block scales", _fp8, containers=DIRECTORIES),
    Twin("L", "fp8 with plain scales", lambda draft: _fp8(draft, suffix="_scale"), containers=DIRECTORIES),
    Twin(
        "L",
        "fp8 cast without scales",
        _quiet(tensors(r"_proj\.weight", lambda tensor: tensor.to(torch.float8_e4m3fn))),
        containers=DIRECTORIES,
    ),
    Twin(
        "M",
        "a fresh lora_B, declared",
        added(LORA, torch.zeros(64, 4)),
        allowed={LORA: "the adapter is attached afterwards"},
    ),
    Twin(
        "M",
        "renamed but declared",
        added("model.rotary_emb.inverse", torch.ones(8)),
        allowed={"model.rotary_emb.inverse": "a buffer under its older name"},
    ),
    Twin(
        "N",
        "the same tokenizer in other files",
        _tokenizer(
            recorded=tokenizer_files(300),
            used={name: json.dumps(json.loads(content)).encode() for name, content in tokenizer_files(300).items()},
        ),
        containers=DIRECTORIES,
    ),
    Twin("N", "a vocabulary smaller than the rows", lambda draft: setattr(draft, "tokenizer", tokenizer_files(300))),
)
