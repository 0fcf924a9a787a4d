"""Which classes of the zoo the atlas describes, and the config values some of them need to build at all."""

from __future__ import annotations

import re
from typing import Any

PINNED: dict[str, dict[str, Any]] = {}

EXTRA_CLASSES = (
    ("RwkvForCausalLM", "rwkv", "decoder"),
    ("MambaForCausalLM", "mamba", "decoder"),
)
BASE_MODELS = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "mpnet", "modernbert", "roberta"),
    *("xlm-roberta", "nomic_bert", "eurobert"),
)
"""Encoders that are published without a head."""

SAVED_BUFFERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"^(gpt2|gpt-sw3)$", "attn.c_attn.weight", ("attn.bias", "attn.masked_bias")),
    (r"^(gpt2|gpt-sw3)$", "crossattention.c_attn.weight", ("crossattention.bias", "crossattention.masked_bias")),
    (r"^gptj$", "attn.q_proj.weight", ("attn.bias", "attn.masked_bias", "attn.scale_attn", "attn.embed_positions")),
    (r"^gpt_neo$", "attn.attention.q_proj.weight", ("attn.attention.bias", "attn.attention.masked_bias")),
    (
        r"^gpt_neox$",
        "attention.query_key_value.weight",
        ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
    ),
    (r"^codegen$", "attn.qkv_proj.weight", ("attn.causal_mask",)),
    (r".", "self_attn.q_proj.weight", ("self_attn.rotary_emb.inv_freq",)),
    (r".", "self_attn.qkv_proj.weight", ("self_attn.rotary_emb.inv_freq",)),
    (r".", "embeddings.position_embeddings.weight", ("embeddings.position_ids",)),
)
"""Buffers that older versions of the zoo saved and today's models recompute: (model type, sibling, buffers).

Sources: `_keys_to_ignore_on_load_unexpected` of transformers 4.20 to 5.23 (gpt2, gpt_neox, gptj, llama, bert).
"""


def saved_buffer_rows(model_type: str, rows: list[Any]) -> list[Any]:
    """Optional atlas rows for the buffers that stand beside the tensors of `rows`; their shape is not compared."""
    found: dict[str, Any] = {}
    for pattern, _, *rest in rows:
        loops = rest[0].get("loops") if rest else None
        for types, sibling, buffers in SAVED_BUFFERS:
            if re.search(types, model_type) and (pattern == sibling or pattern.endswith(f".{sibling}")):
                for buffer in buffers:
                    extra = {"optional": True, "loops": loops} if loops else {"optional": True}
                    name = pattern.removesuffix(sibling) + buffer
                    found[name] = [name, [], {**extra, "loose": True} if "#" in name else extra]
    return [found[name] for name in sorted(set(found) - {row[0] for row in rows})]


def class_table() -> list[tuple[str, str, str]]:
    """(class name, model type, kind) of every class in the atlas.

    The class of a model type that a bare model type means stands first among its heads (the causal head of decoders,
    the masked head of encoders); a class of several model types stands first under the type that it declares itself.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    rows: dict[tuple[str, str], tuple[int, str]] = {}
    for class_name, model_type, kind in EXTRA_CLASSES:
        rows[class_name, model_type] = (0, kind)
    for model_type, class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        is_encoder = (
            model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            and getattr(CONFIG_MAPPING[model_type], "is_decoder", True) is False
        )
        rows[class_name, model_type] = (2, "encoder") if is_encoder else (0, "decoder")
    for model_type, class_names in MODEL_FOR_MASKED_LM_MAPPING_NAMES.items():
        names = _tuple(class_names)
        is_seq2seq = any(name.endswith("ForConditionalGeneration") for name in names)
        for name in names:
            rows.setdefault((name, model_type), (1, "seq2seq" if is_seq2seq else "encoder"))
        if model_type in BASE_MODELS:
            for name in _tuple(MODEL_MAPPING_NAMES.get(model_type, ())):
                rows.setdefault((name, model_type), (3, "encoder"))

    def order(row: tuple[str, str]) -> tuple[bool, str, int, str]:
        class_name, model_type = row
        declared = getattr(getattr(getattr(transformers, class_name, None), "config_class", None), "model_type", None)
        return declared != model_type, model_type, rows[row][0], class_name

    return [
        (class_name, model_type, rows[class_name, model_type][1]) for class_name, model_type in sorted(rows, key=order)
    ]


def _tuple(names: Any) -> tuple[str, ...]:
    return tuple(names) if isinstance(names, tuple | list) else (names,)
