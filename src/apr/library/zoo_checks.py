"""What holds of a transformers model beside its tensors: class and config of the checkpoint, derived buffers, probe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr.errors import AprError, DamagedFileError
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import settings
from apr.identity.typed_config import WITHOUT_EFFECT
from apr.library.injected import base_buffers
from apr.library.resident import ResidentModel

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

ARCHITECTURE_ID = "INV-INIT-ARCH-MATCH-001"
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
        "chunk_size_feed_forward",
        "dtype",
        "finetuning_task",
        "id2label",
        "label2id",
        "model_type",
        "num_labels",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
    }
)


def zoo_gates(resident: ResidentModel) -> tuple[Gate, ...]:
    """Gates that hold class and config of the resident model against the checkpoint's."""
    module: Any = resident.module

    def same_class(facts: InitFacts) -> Iterable[Finding]:
        return [class_finding(facts, type(module).__name__, class_model_type(module))]

    def same_config(facts: InitFacts) -> Iterable[Finding]:
        return [config_finding(facts, module.config)]

    return (
        Gate(ARCHITECTURE_ID, "the model is of the class that the checkpoint names", Stage.HEADERS, same_class),
        Gate(CONFIG_ID, "the model was built with the checkpoint's config", Stage.HEADERS, same_config),
    )


def class_model_type(module: torch.nn.Module) -> str:
    """The model type of the class of `module`; a config keeps the type of the file it was read from."""
    config_class = getattr(type(module), "config_class", None)
    return str(getattr(config_class, "model_type", None) or type(module).__name__)


def class_finding(facts: InitFacts, class_name: str, model_type: str) -> Finding:
    """Whether a model of `class_name` belongs to the checkpoint's model type; another head is coverage's business."""
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    if claimed is None:
        return Finding(ARCHITECTURE_ID, Status.UNCHECKED, f"the checkpoint names no class to compare {class_name} with")
    if claimed.model_type == model_type:
        return Finding(ARCHITECTURE_ID, Status.PASS, f"{class_name} is a {model_type} model, as the checkpoint says")
    return Finding(
        ARCHITECTURE_ID,
        Status.REFUSE,
        f"the model is a {class_name} ({model_type}), the checkpoint says {claimed}",
        expected=f"a model of type {claimed.model_type}",
        found=f"{class_name}, of type {model_type}",
        remedy=f"load it as {claimed.class_name}, or as AutoModelForCausalLM",
    )


def config_finding(facts: InitFacts, config: PretrainedConfig) -> Finding:
    """Whether `config` agrees with the recorded one in every field that can change what the weights compute."""
    from apr.loading.zoo import build_config

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
    differing = differing_fields(recorded.to_dict(), config.to_dict())
    if not differing:
        return Finding(CONFIG_ID, Status.PASS, "the model was built with the config that the checkpoint records")
    return Finding(
        CONFIG_ID,
        Status.REFUSE,
        f"the model was built with another config than the checkpoint records: {', '.join(differing)}",
        expected=settings(differing, recorded.to_dict()),
        found=settings(differing, config.to_dict()),
        remedy=f"load with the checkpoint's own config, or say why not: allowed_gates={{'{CONFIG_ID}': 'REASON'}}",
    )


def differing_fields(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Fields of two configs that differ and can change what a trained model computes."""
    return sorted(
        name
        for name in recorded.keys() | found.keys()
        if _has_effect(name) and _with_effect(recorded.get(name)) != _with_effect(found.get(name))
    )


def _has_effect(name: str) -> bool:
    return name not in OF_THE_RUN and not re.search(WITHOUT_EFFECT, name)


def _with_effect(value: Any) -> Any:
    """`value`, and where it is a config within the config, only its fields that have an effect and are set."""
    if not isinstance(value, Mapping):
        return value
    return {name: _with_effect(inner) for name, inner in value.items() if _has_effect(str(name)) and inner is not None}


def zoo_facts(resident: ResidentModel, facts: InitFacts, *, replay_probe: bool) -> dict[str, Any]:
    """Fields of `InitFacts` that are measured on the model: derived buffers, and the recorded probe if it applies."""
    from apr.loading.buffers import check_buffers

    module: Any = resident.module
    more = _replayed(resident, facts) if replay_probe else {"probe_note": "the caller left it out"}
    return {"buffers": check_buffers(module, base_buffers(module)), **more}


def _replayed(resident: ResidentModel, facts: InitFacts) -> dict[str, Any]:
    """The fields of `InitFacts` that say what became of the recorded probe."""
    from apr.loading.probe import replay_probe

    probe = facts.checkpoint.recorded.probe if facts.checkpoint is not None else None
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    if probe is None:
        return {"probe_note": "the checkpoint records no probe"}
    if claimed is None or type(resident.module).__name__ != claimed.class_name:
        return {"probe_note": "the probe was recorded by a model with another head"}
    if resident.unwrapped.fsdp is not None:
        return {"probe_note": "FSDP1 keeps the embedding as a flat shard, whose rows cannot be counted"}
    if resident.adapter_names:
        return {"probe_note": "an adapter lies over the model, and the probe was recorded without it"}
    module: PreTrainedModel = resident.module
    try:
        with plain_forward(module):
            return {"probe": replay_probe(module, probe)}
    except DamagedFileError as error:
        return {"probe_error": error}


@contextmanager
def plain_forward(module: torch.nn.Module) -> Iterator[None]:
    """Within the block the model computes in its own dtype: accelerate's autocast around `forward` is off."""
    patched = module.__dict__.get("forward")
    original = getattr(module, "_original_forward", None)
    if patched is None or original is None:
        yield
        return
    module.forward = original
    try:
        yield
    finally:
        module.forward = patched
