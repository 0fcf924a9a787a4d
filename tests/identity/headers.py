"""Checkpoints that are nothing but headers: names, shapes and stamps, without a file behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from apr.formats.base import Checkpoint, Format, Stamp, StampKey, TensorEntry
from apr.formats.dtypes import DType
from apr.identity.atlas import load_atlas, symbolic_tensors

Shapes = Mapping[str, Sequence[int]]

CLASS = StampKey.CONFIG_ARCHITECTURES
MODEL_TYPE = StampKey.CONFIG_MODEL_TYPE
SLUG = StampKey.APR_ARCHITECTURE
HF_CLASS = StampKey.APR_HF_ARCHITECTURE
HF_MODEL_TYPE = StampKey.APR_HF_MODEL_TYPE


def headers(
    shapes: Shapes,
    stamps: Sequence[tuple[StampKey, str]] = (),
    *,
    config: Mapping[str, Any] | None = None,
    typed: Mapping[str, Any] | None = None,
    placeholders: Collection[str] = (),
) -> Checkpoint:
    """A checkpoint whose headers hold these shapes and stamps; `placeholders` are stored with zero bytes."""
    tensors = {
        name: TensorEntry(name, DType.F32, tuple(shape), None, 0, 0 if name in placeholders else 4)  # type: ignore[arg-type]
        for name, shape in shapes.items()
    }
    return Checkpoint(
        path=Path("model.apr"),
        format=Format.APR2,
        files=(),
        tensors=tensors,
        stamps=tuple(Stamp(key, value, key.value) for key, value in stamps),
        config=config,
        config_place=None if config is None else "config.json",
        typed=typed or {},
    )


def stored_shapes(class_name: str, **config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint of `class_name` holds on disk under `config`, tied tensors left out."""
    entry = load_atlas().find_class(class_name)
    assert entry is not None
    wanted = symbolic_tensors(entry, config)
    return {name: each.shape for name, each in wanted.items() if each.tied_to is None and not each.is_optional}


QWEN2_HALF_BILLION = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
"""Qwen2.5-Coder-0.5B, the model of the founding story: 290 tensors with a tied head."""
