"""Which classes of the zoo the atlas describes, and the config values some of them need to build at all."""

from __future__ import annotations

from typing import Any

PINNED: dict[str, dict[str, Any]] = {}

EXTRA_CLASSES = (
    ("RwkvForCausalLM", "rwkv", "decoder"),
    ("MambaForCausalLM", "mamba", "decoder"),
)


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
        if not is_seq2seq:
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
