"""Load transformers' classes with proof: the class the checkpoint names, by the one road."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apr.formats.base import Checkpoint
from apr.formats.config_stamps import config_stamps
from apr.formats.dtypes import DType
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination, examine_opened, load, try_load
from apr.gates.runner import run_stage
from apr.gates.words import settings
from apr.identity.types import Kind
from apr.library.config_check import CONFIG_ID, differing_fields
from apr.library.holding import Terms
from apr.library.refusal import refuse_unless_accepted
from apr.library.verifying import open_or_refuse
from apr.library.zoo_checks import ARCHITECTURE_ID
from apr.loading.zoo import build_config, model_class, require_zoo

if TYPE_CHECKING:
    from apr.loading.receipt import Receipt

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
    options = terms.road_options()._replace(dtype=dtype, may_use_zoo=True)
    examination = examine_opened(checkpoint, options)
    verdict = examination.facts.verdict
    claimed = verdict.claim.architecture if verdict is not None else None
    if claimed is not None and claimed.kind is not Kind.DECODER:
        options = options._replace(run_kind=claimed.kind)
        examination = examine_opened(checkpoint, options)
    gates = []
    if asked is not None:
        gates.append(Gate(ARCHITECTURE_ID, "", Stage.HEADERS, lambda facts: [_asked_class(facts, asked)]))
    if config is not None:
        gates.append(Gate(CONFIG_ID, "", Stage.HEADERS, lambda facts: [_given_config(facts, checkpoint, config)]))
    findings = run_stage(Stage.HEADERS, examination.facts, terms.allowed_gates, gates)
    return examination._replace(findings=(*examination.findings, *findings))


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
        expected=settings(differing, recorded),
        found=settings(differing, given),
        remedy="leave config out: the checkpoint has its own",
    )
