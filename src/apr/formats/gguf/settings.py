"""What the keys of a GGUF file say of the model's dimensions and constants, under the names of Hugging Face configs.

Source of the keys: `gguf.constants.Keys` of the `gguf` package, version 0.19, and the converters of llama.cpp, which
write them from a `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr.formats.gguf.layout import (
    ARCHITECTURE_KEY,
    DATA_LICENSE_KEY,
    DATA_SOURCE_KEY,
    DATASETS_KEY,
    LICENSE_KEY,
    TOKENS_KEY,
)
from apr.formats.gguf.values import Array

HF_NAMES: dict[str, str] = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
"""Key behind the architecture's name to the field of a config."""

HEAD_WIDTH_KEYS = ("attention.key_length", "attention.value_length")
ROPE_SCALING_NAMES = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}

PROVENANCE_KEYS = {"license": LICENSE_KEY, "data_source": DATA_SOURCE_KEY, "data_license": DATA_LICENSE_KEY}
"""Field of provenance to its key: of the specification where it has one, else ours."""


def architecture_of(metadata: Mapping[str, Any]) -> str | None:
    """The architecture a file names, None when it names none."""
    value = metadata.get(ARCHITECTURE_KEY)
    return value if isinstance(value, str) and value.strip() else None


def provenance_text(metadata: Mapping[str, Any], name: str) -> str | None:
    """What the file says of its `license`, `data_source` or `data_license`, None when it says nothing.

    The list `general.datasets` that converters write counts as a source where none was stamped.
    """
    value = metadata.get(PROVENANCE_KEYS[name])
    datasets = metadata.get(DATASETS_KEY)
    if value is None and name == "data_source" and isinstance(datasets, list):
        value = ", ".join(each for each in datasets if isinstance(each, str))
    return value.strip() or None if isinstance(value, str) else None


def typed_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The dimensions and constants in `metadata`, by their Hugging Face names; what is not stated is left out.

    A value for each layer counts where all layers have the same one. The vocabulary is the one stated, else the
    number of tokens. `rope_scaling` is as in a config, without it when the file states none.
    """
    architecture = architecture_of(metadata)
    if architecture is None:
        return {}
    own = {key: metadata.get(f"{architecture}.{key}") for key in (*HF_NAMES, *HEAD_WIDTH_KEYS, *ROPE_SCALING_NAMES)}
    found: dict[str, Any] = {}
    for key, name in HF_NAMES.items():
        value = _one_value(own[key])
        if value is not None:
            found[name] = value
    widths = [_one_value(own[key]) for key in HEAD_WIDTH_KEYS]
    if isinstance(widths[0], int) and widths[0] == widths[1]:
        found["head_dim"] = widths[0]
    if own["rope.scaling.type"] not in (None, "none"):
        scaling = {name: own[key] for key, name in ROPE_SCALING_NAMES.items() if own[key] is not None}
        found["rope_scaling"] = scaling
    tokens = metadata.get(TOKENS_KEY)
    if "vocab_size" not in found and isinstance(tokens, (Array, list)):
        found["vocab_size"] = len(tokens)
    return found


def _one_value(value: Any) -> int | float | None:
    if isinstance(value, Array) and value.element_count and value.size_bytes <= 8 * 4096:
        value = value.values()
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
