"""Small real checkpoints as the founding project's trainer labelled them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.writing import tensor_from_bytes


def founding_metadata(config: Any) -> dict[str, Any]:
    """What the founding project's trainer wrote: dimensions and constants, and the Llama class for everything."""
    return {
        "name": "model-pretrain",
        "architecture": "LlamaForCausalLM",
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rms_norm_eps": config.rms_norm_eps,
    }


def save(model: Any, path: Path, **changes: Any) -> None:
    """The model as the founding project wrote it; `changes` adds to its metadata or replaces it, None leaves out."""
    tensors = [
        tensor_from_bytes(name, DType.F32, tuple(value.shape), value.detach().contiguous().numpy())
        for name, value in model.state_dict().items()
    ]
    metadata = {**founding_metadata(model.config), **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    write_apr2(path, metadata=kept, tensors=tensors)


def stored_bytes(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {name: b"".join(entry.stream(1 << 20)) for name, entry in checkpoint.tensors.items()}
