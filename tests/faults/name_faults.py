"""Classes A to D: a false identity, shifted names, a partial load, a load that never happened."""

from __future__ import annotations

import torch

from tests.faults.changes import (
    emptied_directory,
    empty,
    gone,
    remove,
)
from tests.faults.checkpoints import APR, HF
from tests.faults.edits import (
    added,
    configured,
    on_disk,
    prefixed,
    relabel,
    substituted,
    together,
    without,
)
from tests.faults.rows import (
    AGREE,
    ARCH,
    COVERAGE,
    DEEP,
    DIRECTORIES,
    EXISTS,
    INTEGRITY,
    PRESENT,
    QKV,
    RECOGNISED,
    RECORDING,
    THIRD,
    TIED,
    VALUES,
    Fault,
)

NAME_FAULTS: tuple[Fault, ...] = (
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
    Fault(
        "B",
        "base prefix lost in all layers but one",
        substituted(r"^model\.(layers\.[0-2]\.|embed|norm)", r"\1"),
        COVERAGE,
        says="embed_tokens",
        options=TIED,
        containers=RECORDING,
    ),
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
    Fault("D", "the path is gone", on_disk(gone), EXISTS),
    Fault("D", "an empty directory", on_disk(emptied_directory), INTEGRITY, containers=DIRECTORIES),
    Fault("D", "empty files", on_disk(empty), RECOGNISED, containers=(APR,)),
    Fault("D", "empty weight files", on_disk(empty), RECOGNISED, containers=DIRECTORIES),
    Fault("D", "a config and no weights", on_disk(remove("model.safetensors")), INTEGRITY, containers=(HF,)),
    Fault("D", "weights under one more key", prefixed("model_state_dict."), COVERAGE, says="model_state_dict."),
    Fault(
        "D",
        "nothing but optimizer state",
        lambda draft: setattr(draft, "state", {f"exp_avg.{name}": each for name, each in draft.state.items()}),
        COVERAGE,
        says="exp_avg",
    ),
    Fault("D", "no tensors", lambda draft: setattr(draft, "state", {}), RECOGNISED, containers=(HF, APR)),
)
