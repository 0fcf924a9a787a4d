"""The founding story's file, small: Qwen2 tensors as their trainer wrote them, with the Llama class in the label.

Made without torch: names and shapes of `Qwen2ForCausalLM` (transformers 5), normal values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apr.formats.apr2.layout import Flags
from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.writing import TensorToWrite, tensor_from_bytes

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCABULARY = 32, 2, 4, 2, 48, 96
TYPED_DIMENSIONS: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "num_kv_heads": KV_HEADS,
    "vocab_size": VOCABULARY,
    "intermediate_size": FFN,
    "max_position_embeddings": 128,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
}


def qwen2_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a small untied Qwen2 with its shape."""
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, HIDDEN)
            yield f"{prefix}self_attn.{name}_proj.bias", (rows,)
        yield f"{prefix}self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            yield f"{prefix}mlp.{name}_proj.weight", (FFN, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, FFN)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", (HIDDEN,)


def qwen2_tensors() -> list[TensorToWrite]:
    random = np.random.default_rng(0)
    return [
        tensor_from_bytes(name, DType.F32, shape, random.normal(1.0, 0.1, shape).astype("<f4"))
        for name, shape in qwen2_shapes()
    ]


def write_founding_file(path: Path, *, flags: Flags = Flags.LAYOUT_ROW_MAJOR, **metadata: Any) -> Path:
    """The file as the founding project's GPU trainer wrote it; `metadata` adds to it or replaces what it says."""
    written = {
        "name": "model-pretrain",
        "version": "0.1.0",
        "architecture": "LlamaForCausalLM",
        "format": "entrenar-checkpoint",
        **TYPED_DIMENSIONS,
        **metadata,
    }
    kept = {key: value for key, value in written.items() if value is not None}
    write_apr2(path, metadata=kept, tensors=qwen2_tensors(), flags=flags)
    return path
