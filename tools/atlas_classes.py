"""Which classes of the zoo the atlas describes, and the config values some of them need to build at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PINNED: dict[str, dict[str, Any]] = {}
"""Config values of a class, by its name, without which it does not build."""

EXTRA_CLASSES = (
    ("RwkvForCausalLM", "rwkv", "decoder"),
    ("MambaForCausalLM", "mamba", "decoder"),
)


class Head(NamedTuple):
    """One of transformers' tables of classes. kind: of all of them, None where `_kind` has to tell; names: which."""

    mapping: str
    kind: str | None
    names: str = "."
    of_text_models_only: bool = False


HEADS = (
    Head("FOR_SEQ_TO_SEQ_CAUSAL_LM_", "seq2seq"),
    Head("FOR_CAUSAL_LM_", None),
    Head("FOR_MASKED_LM_", None),
    Head("", None, of_text_models_only=True),
    Head("FOR_TEXT_ENCODING_", "encoder", "EncoderModel$", of_text_models_only=True),
    Head("FOR_PRETRAINING_", "encoder", "ForPreTraining$", of_text_models_only=True),
    Head("FOR_SEQUENCE_CLASSIFICATION_", "classification"),
    Head("FOR_TOKEN_CLASSIFICATION_", "classification"),
    Head("FOR_QUESTION_ANSWERING_", "classification"),
    Head("FOR_MULTIPLE_CHOICE_", "classification", of_text_models_only=True),
    Head("FOR_NEXT_SENTENCE_PREDICTION_", "classification", of_text_models_only=True),
)
"""The tables, in the order in which the classes of one model type stand."""

DEPENDENT: dict[str, dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "mamba2": {"head_dim": lambda config: config["expand"] * config["hidden_size"] // config["num_heads"]},
    "bamba": {"mamba_d_head": lambda config: config["mamba_expand"] * config["hidden_size"] // config["mamba_n_heads"]},
    "granitemoehybrid": {
        "mamba_d_head": lambda config: config["mamba_expand"] * config["hidden_size"] // config["mamba_n_heads"]
    },
    "gpt_neo": {"attention_types": lambda config: [[["global"], config["num_layers"]]]},
    "xlnet": {"d_head": lambda config: config["d_model"] // config["n_head"]},
}
"""Fields that a class wants to follow from others, by model type: it refuses other values, and no shape needs them."""

FILLED: dict[str, dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "lfm2_moe": {
        "layer_types": lambda config: [
            ("conv", "full_attention")[layer % 2] for layer in range(config["num_hidden_layers"])
        ]
    },
}
"""Fields that a config class leaves unset and the class needs, by model type: what they hold where nothing is said."""

OTHER_FIELD_NAMES: dict[str, dict[str, str]] = {"lfm2_moe": {"tie_embedding": "tie_word_embeddings"}}
"""Fields that a config class takes under another name as well, without saying so in its `attribute_map`."""

MORE_FIELDS: dict[str, dict[str, Any]] = {
    "deberta-v2": {"position_buckets": -1, "norm_rel_ebd": "none", "conv_kernel_size": 0, "share_att_key": False},
}
"""Fields that model code reads with `getattr(config, name, default)` although the config class does not list them."""

UNEXPLORED: dict[str, frozenset[str]] = {
    "falcon": frozenset({"num_ln_in_parallel_attn"}),
    "deberta-v2": frozenset({"max_relative_positions"}),
}
"""Fields whose effect shows in rare configs only: other values than the default are left to the class itself."""

TEXT_VALUES = {
    "norm_rel_ebd": ("none", "layer_norm"),
    "feed_forward_proj": ("relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"),
    "classifier_pooling": ("cls", "mean", "late"),
    "attention_type": ("original_full", "block_sparse"),
    "position_embedding_type": ("absolute", "rotary", "relative_key", "relative_key_query"),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "pos_att_type": ("", "c2p", "p2c", "c2p|p2c", "p2c|c2p"),
}
"""Words that people give to text fields which may change the tensors; "" is nothing at all, `|` joins a list."""

WORDS_MATTER_WITH: dict[str, dict[str, Any]] = {"pos_att_type": {"relative_attention": True, "share_att_key": False}}
"""Text fields whose words do something in a setting that is not the usual one; their words may be of several kinds."""

NULLABLE = frozenset({"q_lora_rank"})
"""Integers that are set by default and that a config may set to null, which puts other tensors in the place of some
(DeepSeek-V2-Lite has a whole query projection, no low rank)."""

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
    (
        r"^(t5|mt5|umt5|longt5)$",
        "layer.0.SelfAttention.relative_attention_bias.weight",
        ("layer.1.EncDecAttention.relative_attention_bias.weight",),
    ),
    (
        r"^marian$",
        "decoder.embed_tokens.weight",
        ("encoder.embed_positions.weight", "decoder.embed_positions.weight"),
    ),
    (r".", "self_attn.q_proj.weight", ("self_attn.rotary_emb.inv_freq",)),
    (r".", "self_attn.qkv_proj.weight", ("self_attn.rotary_emb.inv_freq",)),
    (r".", "embeddings.position_embeddings.weight", ("embeddings.position_ids",)),
)
"""Buffers that older versions of the zoo saved and today's models recompute: (model type, sibling, buffers).

Sources: `_keys_to_ignore_on_load_unexpected` and `_keys_to_ignore_on_save` of transformers 4.20 to 5.23 (gpt2,
gpt_neox, gptj, llama, bert, t5, marian).
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

    The class of a model type that a bare model type means stands first among its heads (`HEADS`); a class of several
    model types stands first under the type that it declares itself.
    """
    import transformers

    rows: dict[tuple[str, str], tuple[int, str]] = {
        (class_name, model_type): (0, kind) for class_name, model_type, kind in EXTRA_CLASSES
    }
    text_types = {model_type for _, model_type, _ in EXTRA_CLASSES}
    for rank, head in enumerate(HEADS):
        for model_type, names in _mapping(head.mapping).items():
            if head.of_text_models_only and (model_type not in text_types or _is_composite(model_type)):
                continue
            for class_name in names:
                if re.search(head.names, class_name):
                    rows.setdefault((class_name, model_type), (rank, head.kind or _kind(class_name, model_type)))
        if not head.of_text_models_only:
            text_types |= set(_mapping(head.mapping))

    def order(row: tuple[str, str]) -> tuple[bool, str, int, str]:
        class_name, model_type = row
        declared = getattr(getattr(getattr(transformers, class_name, None), "config_class", None), "model_type", None)
        is_causal_encoder = rows[row][0] == 1 and rows[row][1] == "encoder"
        return declared != model_type, model_type, rows[row][0] + 2 * is_causal_encoder, class_name

    return [
        (class_name, model_type, rows[class_name, model_type][1]) for class_name, model_type in sorted(rows, key=order)
    ]


def _is_composite(model_type: str) -> bool:
    """Whether its config holds those of several models (text, images, sound), which the generator does not explore."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return bool(CONFIG_MAPPING[model_type].sub_configs_defaults)


def _mapping(name: str) -> dict[str, tuple[str, ...]]:
    """One of transformers' tables from model type to class names."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, f"MODEL_{name}MAPPING_NAMES")
    return {
        model_type: tuple(names) if isinstance(names, tuple | list) else (names,) for model_type, names in found.items()
    }


def _kind(class_name: str, model_type: str) -> str:
    """What a class predicts, where its table holds several kinds."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type in _mapping("FOR_SEQ_TO_SEQ_CAUSAL_LM_"):
        return "decoder" if class_name.endswith(("ForCausalLM", "Decoder")) else "seq2seq"
    is_encoder = getattr(CONFIG_MAPPING[model_type], "is_decoder", True) is False
    if model_type in _mapping("FOR_MASKED_LM_") and (is_encoder or model_type not in _mapping("FOR_CAUSAL_LM_")):
        return "encoder"
    return "decoder" if class_name in _mapping("FOR_CAUSAL_LM_").get(model_type, ()) else "base"
