"""The target of a load: from the atlas where it is exact, else from the class itself built without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from apr.errors import DamagedFileError
from apr.formats.base import Checkpoint
from apr.identity.atlas import expected_tensors, load_atlas
from apr.identity.types import Architecture, ExpectedTensor, Naming, ResolvedConfig
from apr.loading.ledger import LoadPlan, Target
from apr.loading.zoo_lock import ZOO_LOCK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# A config may ask for this many times the tensors the file holds before it is called absurd; a real mistake
# (one layer more, experts doubled) stays far below, a hostile count is refused before anything is allocated.
MOST_TENSORS_PER_STORED_TENSOR = 64
FEWEST_TENSORS_CAP = 4096
# Rotary tables and masks of real models stay below this, or below the weights of the model.
MOST_BUFFER_BYTES = 256 << 20


def make_target(checkpoint: Checkpoint, architecture: Architecture, config: ResolvedConfig) -> Target | None:
    """The target of loading `checkpoint` as `architecture`, without torch; None when only the zoo could tell."""
    if architecture.naming is Naming.GGUF:
        from apr.loading.gguf_target import make_gguf_target

        return make_gguf_target(checkpoint, architecture, config)
    entry = load_atlas().find_class(architecture.class_name, architecture.model_type)
    expected = None if entry is None else expected_tensors(entry, config.values, max_tensors=tensor_cap(checkpoint))
    return None if expected is None else Target(architecture, config, expected, origin="atlas")


def tensor_cap(checkpoint: Checkpoint) -> int:
    """More tensors than this the config cannot honestly ask of this file."""
    return max(FEWEST_TENSORS_CAP, MOST_TENSORS_PER_STORED_TENSOR * len(checkpoint.tensors))


def make_target_on_meta(architecture: Architecture, config: ResolvedConfig) -> Target:
    """The target read off the class itself, built on the meta device (no memory); needs torch and transformers."""
    from apr.loading.on_disk import planned_state_dict

    model = build_on_meta(architecture, config)
    state = planned_state_dict(model)
    expected = {name: ExpectedTensor(name, tuple(tensor.shape)) for name, tensor in state.items()}
    for name, partner in tied_names(model, expected).items():
        expected[name] = ExpectedTensor(name, expected[partner].shape, tied_to=partner)
    return Target(architecture, config, expected, origin="meta device")


def build_on_meta(architecture: Architecture, config: ResolvedConfig) -> PreTrainedModel:
    """The class itself without memory for its tensors; DamagedFileError when its config makes it fail."""
    import torch

    from apr.loading.zoo import build_config, model_class

    model_of = model_class(architecture)
    zoo_config = build_config(config)
    try:
        with ZOO_LOCK, torch.device("meta"):
            return model_of(zoo_config)
    except Exception as error:
        raise DamagedFileError(
            f"{architecture} cannot be built from its config",
            expected="a config that its class accepts",
            found=f"{type(error).__name__}: {error}",
            invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        ) from error


def refuse_unexplained_buffers(plan: LoadPlan, checkpoint: Checkpoint) -> None:
    """Raise DamagedFileError when the model would make tables from its config far larger than the file it is for."""
    model = build_on_meta(plan.target.architecture, plan.target.config)
    size = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    most = max(MOST_BUFFER_BYTES, checkpoint.size_bytes)
    if size > most:
        raise DamagedFileError(
            "the config asks for tables that this file does not explain",
            where=str(checkpoint.config_place or checkpoint.path),
            expected=f"at most {most:,} bytes of derived buffers",
            found=f"{size:,} bytes",
            invariant="FALSIFY-APR-PRETRAIN-INIT-005",
        )


def tied_names(model: torch.nn.Module, expected: Mapping[str, ExpectedTensor]) -> dict[str, str]:
    """Names that share another name's storage in `model`, and which stored name they share it with."""
    by_identity: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    ties: dict[str, str] = {}
    for names in by_identity.values():
        stored = [name for name in names if name in expected]
        if len(names) > 1 and stored:
            ties.update({name: stored[0] for name in names if name not in expected})
    return ties
