"""Load a module of the user's own with proof: planned against the module itself, copied, read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import UsageError
from apr.formats.dtypes import DType
from apr.gates import receipt as receipt_gate
from apr.gates.finding import Finding, Status
from apr.library.filling import fill, give_memory
from apr.library.holding import Held, Terms, hold, hold_again, undeclared_casts
from apr.library.refusal import refuse_unless_accepted
from apr.library.resident import read_resident, storage_of
from apr.library.verifying import open_or_refuse, prove_held

if TYPE_CHECKING:
    import torch

    from apr.loading.receipt import Receipt

RECEIPT_ID = receipt_gate.ID


def load_module(
    module_or_factory: torch.nn.Module | Callable[..., Any],
    path: Path,
    terms: Terms,
    *,
    dtype: DType | None,
    device: str | None,
    config: Any,
) -> tuple[Any, Receipt]:
    """A torch module filled from the file, every tensor of it; the module is touched after everything was accepted."""
    import torch

    if isinstance(module_or_factory, torch.nn.Module):
        module, reference = module_or_factory, None
    elif callable(module_or_factory):
        config = _recorded_config(module_or_factory, path) if config is None else config
        module, reference = (_make(module_or_factory, config) for _ in range(2))
    else:
        raise UsageError(
            "nothing to load into",
            expected="a torch module, a function that makes one, a transformers class, or None",
            found=type(module_or_factory).__name__,
        )
    checkpoint = open_or_refuse(path, terms)
    try:
        held = hold(read_resident(module), checkpoint, replace(terms, meta_dtype=dtype))
        _refuse_before_filling(held)
        give_memory(module, dtype, device or "cpu")
        fill(hold_again(held, read_resident(module)))
        if device is not None:
            module.to(device)
        filled = hold_again(held, read_resident(module))
        examination = prove_held(filled, replay_probe=True, reference=reference)
    finally:
        checkpoint.close()
    refuse_unless_accepted(examination, "the filled module does not hold what the file does")
    assert examination.facts.receipt is not None
    return module, examination.facts.receipt


def _recorded_config(factory: Callable[..., Any], path: Path) -> Any:
    """The config beside the weights for a model class of the user's own that is built from one, None otherwise."""
    from transformers import PreTrainedModel

    if not (isinstance(factory, type) and issubclass(factory, PreTrainedModel) and path.is_dir()):
        return None
    config_class: Any = getattr(factory, "config_class", None)
    return None if config_class is None else config_class.from_pretrained(path)


def _make(factory: Callable[..., Any], config: Any) -> Any:
    import torch

    module = factory() if config is None else factory(config)
    if not isinstance(module, torch.nn.Module):
        raise UsageError("the function makes no torch module", expected="a torch module", found=type(module).__name__)
    return module


def _refuse_before_filling(held: Held) -> None:
    """Everything that can be known before a tensor is written; the module is unchanged when this raises."""
    import torch

    casts = undeclared_casts(held)
    findings = [
        Finding(RECEIPT_ID, Status.REFUSE, f"{each.name} {each.what}", each.expected, each.found) for each in casts
    ]
    examination = held.examination
    refuse_unless_accepted(examination._replace(findings=(*examination.findings, *findings)))
    in_memory = held.resident.module.state_dict().values()
    storages = {storage_of(tensor) for tensor in in_memory if isinstance(tensor, torch.Tensor)}
    if not all(storage_of(tensor) in storages for tensor in held.resident.tensors.values()):
        raise UsageError(
            f"{type(held.resident.module).__name__} holds tensors in memory in another layout than on disk",
            expected="a module whose tensors can be filled in place",
            found="tensors that are split, merged or gathered when they are saved",
            remedy="give transformers' own class, or load it with apr.hf.from_pretrained",
        )
