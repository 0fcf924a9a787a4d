"""What holds of a transformers model beside its tensors: class and config of the checkpoint, derived buffers, probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr.errors import DamagedFileError
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.identity.atlas import load_atlas
from apr.library.config_check import CONFIG_ID, config_finding
from apr.library.injected import base_buffers
from apr.library.resident import ResidentModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ARCHITECTURE_ID = "INV-INIT-ARCH-MATCH-001"


def zoo_gates(resident: ResidentModel, *, has_resized_tables: bool = False) -> tuple[Gate, ...]:
    """Gates that hold class and config of the resident model against the checkpoint's.

    has_resized_tables: the caller let another number of tokens through, so that the config may say it too.
    """
    module: Any = resident.module

    def same_class(facts: InitFacts) -> Iterable[Finding]:
        return [class_finding(facts, type(module).__name__, class_model_type(module))]

    def same_config(facts: InitFacts) -> Iterable[Finding]:
        return [config_finding(facts, module, frozenset({"vocab_size"} if has_resized_tables else ()))]

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
    if claimed.model_type == model_type or load_atlas().serves(class_name, claimed.model_type):
        model_type = claimed.model_type  # Several types may share a class: GPT-SW3 is a GPT2LMHeadModel.
        return Finding(ARCHITECTURE_ID, Status.PASS, f"{class_name} is a {model_type} model, as the checkpoint says")
    return Finding(
        ARCHITECTURE_ID,
        Status.REFUSE,
        f"the model is a {class_name} ({model_type}), the checkpoint says {claimed}",
        expected=f"a model of type {claimed.model_type}",
        found=f"{class_name}, of type {model_type}",
        remedy=f"load it as {claimed.class_name}, or as AutoModelForCausalLM",
    )


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
