"""APR v2 metadata: the typed keys of upstream with their types, and a model's facts brought into them.

Sources: `docs/format-apr2.md`, "Metadata". How the object is spelled as text is in `metadata_text.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from apr.formats.apr2.tokenizer import tokenizer_metadata
from apr.formats.json_text import with_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_METADATA_KEY, Recorded

CONFIG_KEY = "hf_config"
GENERATION_CONFIG_KEY = "hf_generation_config"


class Kind(StrEnum):
    """The JSON type of a typed key."""

    TEXT = "text"
    UNSIGNED = "a non-negative integer"
    FLOAT32 = "a number"
    OBJECT = "an object"


# In upstream's struct order.
TYPED_KEYS: dict[str, Kind] = {
    "model_type": Kind.TEXT,
    "name": Kind.TEXT,
    "description": Kind.TEXT,
    "author": Kind.TEXT,
    "license": Kind.TEXT,
    "data_source": Kind.TEXT,
    "data_license": Kind.TEXT,
    "version": Kind.TEXT,
    "source": Kind.TEXT,
    "original_format": Kind.TEXT,
    "created_at": Kind.TEXT,
    "total_size": Kind.UNSIGNED,
    "param_count": Kind.UNSIGNED,
    "quantization": Kind.OBJECT,
    "sharding": Kind.OBJECT,
    "chat_template": Kind.TEXT,
    "chat_format": Kind.TEXT,
    "special_tokens": Kind.OBJECT,
    "architecture": Kind.TEXT,
    "hf_architecture": Kind.TEXT,
    "hf_model_type": Kind.TEXT,
    "hidden_size": Kind.UNSIGNED,
    "num_layers": Kind.UNSIGNED,
    "num_heads": Kind.UNSIGNED,
    "num_kv_heads": Kind.UNSIGNED,
    "vocab_size": Kind.UNSIGNED,
    "intermediate_size": Kind.UNSIGNED,
    "max_position_embeddings": Kind.UNSIGNED,
    "rope_theta": Kind.FLOAT32,
    "rope_type": Kind.UNSIGNED,
    "rms_norm_eps": Kind.FLOAT32,
    "head_dim": Kind.UNSIGNED,
    "num_experts": Kind.UNSIGNED,
    "num_experts_per_tok": Kind.UNSIGNED,
    "moe_intermediate_size": Kind.UNSIGNED,
}

# Typed keys that mean the same as a Hugging Face config key under another name; the others have the same name.
HF_NAMES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
}

# Typed keys that are facts of the model's config.
CONFIG_KEYS = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "vocab_size",
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "head_dim",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
)

# Other people's names for typed keys. Upstream's serving reader takes them as true aliases: a file with both loses
# all its metadata there.
ALIASES: dict[str, str] = {
    alias: canonical
    for canonical, aliases in {
        "hidden_size": ("hidden_dim", "d_model", "n_embd"),
        "num_layers": ("num_hidden_layers", "n_layers", "n_layer"),
        "num_heads": ("num_attention_heads", "n_heads", "n_head"),
        "num_kv_heads": ("num_key_value_heads", "n_kv_heads"),
        "vocab_size": ("n_vocab",),
        "intermediate_size": ("ffn_dim", "intermediate_dim", "n_inner"),
        "max_position_embeddings": ("max_seq_len", "context_length", "n_ctx"),
        "rms_norm_eps": ("layer_norm_eps", "norm_eps"),
    }.items()
    for alias in aliases
}

# Names Hugging Face configs use for a typed key, where not only its own.
CONFIG_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hidden_size": ("hidden_size", "n_embd", "d_model", "hidden_dim"),
        "num_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        "num_heads": ("num_attention_heads", "n_head", "n_heads"),
        "num_kv_heads": ("num_key_value_heads",),
        "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
        "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx"),
        "rope_theta": ("rope_theta", "rotary_emb_base"),
        "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    }
)


class Spelling(StrEnum):
    """How absent typed values are written: left out (today), or as null (files from before 2026-05)."""

    OMITTED = "omitted"
    NULL = "null"


def spelling_of(metadata: Mapping[str, Any]) -> Spelling:
    """Which spelling a file's metadata was written in; the old one writes even `description` as null."""
    return Spelling.NULL if metadata.get("description", "") is None else Spelling.OMITTED


def typed_problem(key: str, value: Any) -> str | None:
    """What is wrong with the value of typed key `key`, None when its type is right (null counts as absent)."""
    kind = TYPED_KEYS[key]
    if value is None:
        return None
    if kind is Kind.TEXT:
        is_right = isinstance(value, str)
    elif kind is Kind.UNSIGNED:
        is_right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64
    elif kind is Kind.FLOAT32:
        is_right = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        is_right = isinstance(value, Mapping)
    return None if is_right else f"{value!r:.80}"


def apr2_metadata(
    *,
    config: Mapping[str, Any] | None = None,
    stamps: Mapping[str, str] | None = None,
    recorded: Recorded = NOTHING_RECORDED,
    tokenizer_files: Mapping[str, bytes] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    name: str | None = None,
    parameter_count: int = 0,
    total_size_bytes: int = 0,
    typed: Mapping[str, Any] | None = None,
    custom: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of an `.apr` that carries everything it is built from, for `write_apr2`.

    config: full Hugging Face config, kept whole under `hf_config`; upstream's typed keys and the three stamps are
    drawn from it. stamps, typed: typed keys that overrule what the config says (`architecture`, `license`, ...).
    tokenizer_files: name to bytes; write `tokenizer_tensors` of the same files beside the model's tensors.
    custom: further keys, written last. Values nobody knows are left out.
    """
    metadata: dict[str, Any] = {"name": name, "total_size": total_size_bytes, "param_count": parameter_count}
    if config is not None:
        metadata |= _stamps_of(config) | _typed_of(config)
    metadata |= {**(stamps or {}), **(typed or {})}
    if config is not None:
        metadata[CONFIG_KEY] = with_tagged_floats(config)
        if config.get("tie_word_embeddings") is True:
            metadata["tied_embeddings"] = True
    if generation_config is not None:
        metadata[GENERATION_CONFIG_KEY] = with_tagged_floats(generation_config)
    if recorded != NOTHING_RECORDED:
        metadata[RECORDED_METADATA_KEY] = recorded.to_json()
    if tokenizer_files:
        metadata |= tokenizer_metadata(tokenizer_files) | _special_ids_of(config or {})
    return metadata | dict(custom or {})


def _stamps_of(config: Mapping[str, Any]) -> dict[str, str]:
    stamps = {}
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if isinstance(model_type, str) and model_type:
        stamps = {"model_type": model_type, "architecture": model_type, "hf_model_type": model_type}
    if isinstance(architectures, (list, tuple)) and architectures and isinstance(architectures[0], str):
        stamps["hf_architecture"] = architectures[0]
    return stamps


def _typed_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The typed keys that `config`, or the text part of a multimodal one, states under any of their names."""
    text_config = config.get("text_config")
    sources = [config, *([text_config] if isinstance(text_config, Mapping) else [])]
    facts: dict[str, Any] = {}
    for key in CONFIG_KEYS:
        for source in sources:
            values = (source.get(name) for name in CONFIG_NAMES.get(key, (key,)))
            value = next((value for value in values if value is not None), None)
            if key == "rope_theta" and value is None and isinstance(source.get("rope_parameters"), Mapping):
                value = source["rope_parameters"].get("rope_theta")
            is_finite = not isinstance(value, float) or math.isfinite(value)
            if value is not None and is_finite and typed_problem(key, value) is None:
                facts.setdefault(key, value)
    return facts


def _special_ids_of(config: Mapping[str, Any]) -> dict[str, int]:
    ids = {f"tokenizer.{key}": config.get(key) for key in ("bos_token_id", "eos_token_id")}
    return {key: value for key, value in ids.items() if isinstance(value, int) and not isinstance(value, bool)}
