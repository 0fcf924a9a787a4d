"""Whether a model was built with the config that its checkpoint records, in all that changes what weights compute."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from apr.errors import AprError
from apr.gates.facts import InitFacts
from apr.gates.finding import Finding, Status
from apr.gates.words import settings
from apr.identity.running_options import CONTEXT_LENGTHS, is_running_option
from apr.identity.types import Origin

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

CONFIG_ID = "INV-INIT-CONFIG-001"

# Fields that a script may set for its own run without changing what the weights compute; the names of labels and the
# dtype are facts of the head and of the load, which coverage and the receipt judge.
OF_THE_RUN = frozenset(
    {
        "_attn_implementation",
        "_experts_implementation",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "finetuning_task",
        "id2label",
        "keys_to_ignore_at_inference",
        "label2id",
        "model_type",
        "num_labels",
        "problem_type",
        "return_dict",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
    }
)


READ_OFF_ANY_CONFIG = frozenset({"is_causal", "head_dim", "sliding_window", "attention_chunk_size"})
"""Fields that the zoo looks for in configs whose class does not declare them (transformers 5.23, `masking_utils.py` and
`modeling_rope_utils.py`)."""


def config_finding(facts: InitFacts, module: torch.nn.Module, let_through: frozenset[str] = frozenset()) -> Finding:
    """Whether the config of `module` agrees with the recorded one in every field that can change what is computed.

    let_through: fields that differ because of tensors the caller let through by name.
    """
    from apr.loading.zoo import build_config

    config: Any = module.config
    recorded_values = facts.checkpoint.config if facts.checkpoint is not None else None
    try:
        if facts.config is not None:
            recorded = build_config(facts.config)
        elif recorded_values is not None and recorded_values.get("model_type") == config.model_type:
            recorded = type(config).from_dict(dict(recorded_values))
        else:
            return Finding(CONFIG_ID, Status.UNCHECKED, "the checkpoint records no config to compare the model's with")
    except AprError as error:
        return Finding(CONFIG_ID, Status.UNCHECKED, f"no config could be built to compare with: {error.what}")
    if type(recorded) is not type(config):
        return Finding(CONFIG_ID, Status.UNCHECKED, "configs of two classes are not compared field by field")
    expected, found = recorded.to_dict(), config.to_dict()
    ignored = let_through | _never_set(facts, found) | _of_nobody(facts, config, recorded_values or {})
    differing = [name for name in differing_fields(expected, found, _decisive(module)) if name not in ignored]
    if not differing:
        return Finding(CONFIG_ID, Status.PASS, "the model was built with the config that the checkpoint records")
    return Finding(
        CONFIG_ID,
        Status.REFUSE,
        f"the model was built with another config than the checkpoint records: {', '.join(differing)}",
        expected=settings(differing, expected),
        found=settings(differing, found),
        remedy=f"load with the checkpoint's own config, or say why not: allowed_gates={{'{CONFIG_ID}': 'REASON'}}",
    )


def differing_fields(
    recorded: Mapping[str, Any], found: Mapping[str, Any], decisive: Collection[str] = frozenset()
) -> list[str]:
    """Fields of two configs that differ and can change what a trained model computes.

    decisive: fields that count for this class, although elsewhere they are running options.
    """
    compared = {*decisive, *(CONTEXT_LENGTHS if _stretches_positions(recorded) or _stretches_positions(found) else ())}
    return sorted(
        name
        for name in recorded.keys() | found.keys()
        if _has_effect(name, compared)
        and _with_effect(recorded.get(name), compared) != _with_effect(found.get(name), compared)
    )


def _has_effect(name: str, compared: Collection[str]) -> bool:
    if name in compared:
        return True
    return name not in OF_THE_RUN and name not in CONTEXT_LENGTHS and not is_running_option(name)


def _with_effect(value: Any, compared: Collection[str]) -> Any:
    """`value`, and where it is a config within the config, only its fields that have an effect and are set."""
    if isinstance(value, list | tuple):
        return [_with_effect(each, compared) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: _with_effect(inner, compared)
        for name, inner in value.items()
        if _has_effect(str(name), compared) and inner is not None
    }


def _stretches_positions(config: Mapping[str, Any]) -> bool:
    """Whether a rotary table of the config, or of one within it, is computed from the context length."""
    kind = config.get("rope_type", config.get("type"))
    if isinstance(kind, str) and kind in {"dynamic", "longrope", "yarn"}:
        return True
    return any(_stretches_positions(inner) for inner in config.values() if isinstance(inner, Mapping))


def _decisive(module: torch.nn.Module) -> frozenset[str]:
    """Token ids that `module` computes with: RoBERTa and its kin count positions from the padding id, and ESM scales
    embeddings by how many mask tokens there are."""
    words: set[str] = set()
    for each in module.modules():
        places = (type(each), sys.modules.get(type(each).__module__))
        if any(hasattr(place, "create_position_ids_from_input_ids") for place in places):
            words.add("pad_token_id")
        if getattr(each, "token_dropout", False) is True:
            words.add("mask_token_id")
    return frozenset(words)


def _never_set(facts: InitFacts, found: Mapping[str, Any]) -> set[str]:
    """Fields that neither the file nor the model's config has: the class computes with a default of its own, which
    only the atlas knows (`conv_kernel_size` of DeBERTa)."""
    origins = {} if facts.config is None else facts.config.origins
    return {name for name, origin in origins.items() if origin is Origin.CLASS_DEFAULT and name not in found}


def _of_nobody(facts: InitFacts, config: PretrainedConfig, recorded: Mapping[str, Any]) -> set[str]:
    """Fields that a user put into the config of a class of the atlas, which neither class nor atlas has heard of."""
    if facts.config is None:
        return set()
    from apr.identity.atlas import load_atlas

    atlas, architecture = load_atlas(), facts.config.architecture
    if not atlas.serves(architecture.class_name, architecture.model_type):
        return set()
    known = {*atlas.entry(architecture).defaults, *type(config)().to_dict(), *_aliases(config), *READ_OFF_ANY_CONFIG}
    return {name for name in (*recorded, *config.to_dict()) if name not in known}


def _aliases(config: PretrainedConfig) -> set[str]:
    return {"rope_theta", "rope_scaling", *(getattr(type(config), "attribute_map", None) or {})}
