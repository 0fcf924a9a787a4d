"""Tiny models of the zoo's classes with non-trivial norms and biases, as a trained model has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = 320
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {"num_key_value_heads": 2}

# One small config for each model type the tests use; the fields its config class knows.
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {**_COMMON, **_GROUPED},
    "qwen3": {**_COMMON, **_GROUPED, "head_dim": 16},
    "llama": {**_COMMON, **_GROUPED},
    "mistral": {**_COMMON, **_GROUPED, "sliding_window": None},
    "gemma": {**_COMMON, **_GROUPED, "head_dim": 16},
    "gemma2": {**_COMMON, **_GROUPED, "head_dim": 16, "sliding_window": 64},
    "gpt_oss": {**_COMMON, **_GROUPED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "doge": {**_COMMON, **_GROUPED},
    "qwen2_moe": {
        **_COMMON,
        **_GROUPED,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "deepseek_v3": {
        **_COMMON,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    },
    "phi3": {**_COMMON, **_GROUPED},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt_neox": _COMMON,
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
    "mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 8,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
    "qwen3_moe": {
        **_COMMON,
        **_GROUPED,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
}


def tiny_model(model_type: str, *, seed: int = 0, **overrides: Any) -> Any:
    """A causal language model of `model_type` in eval mode; every norm gain and bias away from its initial value."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **overrides})
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith(".bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def trained_model(model_type: str, *, seed: int = 0, **overrides: Any) -> Any:
    """As `tiny_model`, its matrices with uneven rows and heavy tails besides, as training leaves them."""
    import torch

    model = tiny_model(model_type, seed=seed, **overrides)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                rows = torch.randn(parameter.shape[0], *[1] * (parameter.dim() - 1), generator=generator)
                parameter.mul_(torch.exp(0.6 * rows) * 2)
    return model


def save_tiny(directory: Path, model_type: str, *, seed: int = 0, dtype: str = "float32", **overrides: Any) -> Path:
    """`tiny_model` saved by the zoo's own `save_pretrained` into `directory`, which is returned."""
    import torch

    from apr.loading.quiet import quiet_zoo

    with quiet_zoo():
        tiny_model(model_type, seed=seed, **overrides).to(getattr(torch, dtype)).save_pretrained(directory)
    return directory


def relabel(directory: Path, model_type: str, class_name: str) -> Path:
    """Let the config of a saved model claim another architecture, as a careless producer does."""
    import json

    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(model_type=model_type, architectures=[class_name])
    path.write_text(json.dumps(config, indent=2))
    return directory
