"""Load with proof: transformers' classes by the one road, modules of the user's own by plan, copy and read-back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apr.errors import UsageError
from apr.formats.base import Checkpoint
from apr.formats.config_stamps import config_stamps
from apr.formats.dtypes import DType
from apr.gates import receipt as receipt_gate
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination, examine_opened, load, try_load
from apr.gates.runner import run_stage
from apr.identity.types import Kind
from apr.library.filling import fill, give_memory
from apr.library.holding import Held, Terms, hold, hold_again, undeclared_casts
from apr.library.refusal import refuse_unless_accepted
from apr.library.resident import read_resident
from apr.library.verifying import open_or_refuse, prove_held
from apr.library.zoo_checks import ARCHITECTURE_ID, CONFIG_ID, differing_fields
from apr.loading.zoo import build_config, model_class, require_zoo

if TYPE_CHECKING:
    import torch

    from apr.loading.receipt import Receipt

RECEIPT_ID = receipt_gate.ID
GIVEN_CONFIG = "the config given by the caller"


def as_zoo_class(model_or_class: object) -> type[Any] | None:
    """The class of transformers itself that the caller named, auto classes included; None for anything else."""
    require_zoo()
    from transformers import PreTrainedModel

    if is_auto(model_or_class):
        return model_or_class  # type: ignore[return-value]
    if isinstance(model_or_class, type) and issubclass(model_or_class, PreTrainedModel):
        return model_or_class if model_or_class.__module__.startswith("transformers.") else None
    return None


def is_auto(model_class_or_auto: object) -> bool:
    """Whether it is one of transformers' auto classes, which pick a class by config."""
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    return isinstance(model_class_or_auto, type) and issubclass(model_class_or_auto, _BaseAutoModelClass)


def load_zoo_model(
    asked: type[Any] | None,
    path: Path,
    terms: Terms,
    *,
    dtype: DType | None,
    device: str | None,
    config: Any,
    attention: str | None,
) -> tuple[Any, Receipt]:
    """The checkpoint's own class, by the one road; refused unless it is the class that was asked for."""
    checkpoint = open_or_refuse(path, terms)
    try:
        if config is not None:
            checkpoint = with_given_config(checkpoint, config)
        examination = _examine(checkpoint, terms, dtype, config, asked)
        model, examination = try_load(examination, device=device or "cpu", attention=attention)
        refuse_unless_accepted(examination)
        if model is None:
            loaded = load(examination)  # Says why nothing could be planned.
            return loaded.model, loaded.receipt
    finally:
        checkpoint.close()
    if checkpoint.generation_config is not None and model.can_generate():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_dict(dict(checkpoint.generation_config))
    assert examination.facts.receipt is not None
    return model, examination.facts.receipt


def _examine(
    checkpoint: Checkpoint, terms: Terms, dtype: DType | None, config: Any, asked: type[Any] | None
) -> Examination:
    options = replace(terms.road_options(), dtype=dtype, may_use_zoo=True)
    examination = examine_opened(checkpoint, options)
    verdict = examination.facts.verdict
    claimed = verdict.claim.architecture if verdict is not None else None
    if claimed is not None and claimed.kind is not Kind.DECODER:
        options = replace(options, run_kind=claimed.kind)
        examination = examine_opened(checkpoint, options)
    gates = []
    if asked is not None:
        gates.append(Gate(ARCHITECTURE_ID, "", Stage.HEADERS, lambda facts: [_asked_class(facts, asked)]))
    if config is not None:
        gates.append(Gate(CONFIG_ID, "", Stage.HEADERS, lambda facts: [_given_config(facts, checkpoint, config)]))
    findings = run_stage(Stage.HEADERS, examination.facts, terms.allowed_gates, gates)
    return replace(examination, findings=(*examination.findings, *findings))


def _asked_class(facts: InitFacts, asked: type[Any]) -> Finding:
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    if claimed is None or facts.config is None:
        return Finding(ARCHITECTURE_ID, Status.UNCHECKED, f"the checkpoint names no class to hold {asked.__name__} to")
    named = _named_by(asked, facts)
    if named == claimed.class_name:
        return Finding(ARCHITECTURE_ID, Status.PASS, f"{asked.__name__} loads it as {named}, as the checkpoint says")
    return Finding(
        ARCHITECTURE_ID,
        Status.REFUSE,
        f"{asked.__name__} was asked for, the checkpoint is a {claimed.class_name}",
        expected=claimed.class_name,
        found=named or f"{asked.__name__}, which has no class for {claimed.model_type}",
        remedy=f"ask for {claimed.class_name}, or None; for another head on the same base, load with "
        "apr.hf.from_pretrained and name the new tensors in allowed_tensors",
    )


def _named_by(asked: type[Any], facts: InitFacts) -> str | None:
    if not is_auto(asked):
        return asked.__name__
    assert facts.config is not None
    config_class = type(build_config(facts.config))
    mapping = asked._model_mapping
    if mapping is None or config_class not in mapping:
        return None
    found = mapping[config_class]
    names = [each.__name__ for each in (found if isinstance(found, tuple) else (found,))]
    claimed = model_class(facts.config.architecture).__name__
    return claimed if claimed in names else names[0]


def with_given_config(checkpoint: Checkpoint, config: Any) -> Checkpoint:
    """`checkpoint` with the caller's config where it records none; its own stays, and a gate compares the two."""
    if checkpoint.config is not None:
        return checkpoint
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return replace(
        checkpoint,
        config=MappingProxyType(values),
        config_place=GIVEN_CONFIG,
        stamps=(*checkpoint.stamps, *config_stamps(values, GIVEN_CONFIG)),
    )


def _given_config(facts: InitFacts, checkpoint: Checkpoint, config: Any) -> Finding:
    if checkpoint.config_place == GIVEN_CONFIG or facts.config is None:
        return Finding(CONFIG_ID, Status.PASS, "the checkpoint records no config; the caller's is used")
    given = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    recorded = build_config(facts.config).to_dict()
    differing = differing_fields({name: recorded.get(name) for name in given}, given)
    if not differing:
        return Finding(CONFIG_ID, Status.PASS, "the config given is the one that the checkpoint records")
    return Finding(
        CONFIG_ID,
        Status.REFUSE,
        f"the config given differs from the recorded one in {', '.join(differing)}",
        expected="; ".join(f"{name} = {recorded.get(name)!r}" for name in differing),
        found="; ".join(f"{name} = {given.get(name)!r}" for name in differing),
        remedy="leave config out: the checkpoint has its own",
    )


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
    refuse_unless_accepted(replace(examination, findings=(*examination.findings, *findings)))
    in_memory = held.resident.module.state_dict().values()
    storages = {_storage(tensor) for tensor in in_memory if isinstance(tensor, torch.Tensor)}
    if not all(_storage(tensor) in storages for tensor in held.resident.tensors.values()):
        raise UsageError(
            f"{type(held.resident.module).__name__} holds tensors in memory in another layout than on disk",
            expected="a module whose tensors can be filled in place",
            found="tensors that are split, merged or gathered when they are saved",
            remedy="give transformers' own class, or load it with apr.hf.from_pretrained",
        )


def _storage(tensor: Any) -> int:
    """Identity of the memory a tensor is a view of, on the meta device too."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.untyped_storage()._cdata)
