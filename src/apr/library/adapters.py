"""PEFT adapters over a resident model: every tensor applied, none of them nothing, over the base they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import AprError
from apr.gates import coverage, receipt, shapes
from apr.gates.adapters.facts import PREFIX, Adapter, adapter_facts, open_adapter
from apr.gates.adapters.road import AdapterOptions, base_of, examine_adapter, judge_files
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination
from apr.gates.runner import run_stage
from apr.identity.types import Architecture, Claim, Evidence, ExpectedTensor, Kind, ResolvedConfig, Verdict, VerdictKind
from apr.library.applied import applied_gates
from apr.library.casts import declared_dtypes
from apr.library.holding import NO_REASONS, Held, Terms, prove
from apr.library.over_base import explained, with_adapter
from apr.library.owners import acting_names, adapter_state, owner_of
from apr.library.refusal import refuse_unless_accepted, refused
from apr.library.resident import ResidentModel, read_resident
from apr.library.source import cached_source
from apr.library.unnamed_adapters import Effect, effect_of
from apr.library.wrappers import Unwrapped, unwrap, whole_tensor
from apr.loading.ledger import Target
from apr.loading.plan import make_plan
from apr.loading.values import read_values

if TYPE_CHECKING:
    import torch

    from apr.loading.receipt import Receipt

_NOTHING_KNOWN = Verdict(VerdictKind.UNKNOWN, Claim(None, (), (), ()), Evidence((), None, ()), ("an adapter",))


def verify_adapter(
    model: torch.nn.Module,
    adapter_dir: str | os.PathLike[str],
    *,
    adapter_name: str | None = None,
    fresh: bool = False,
    check_base: bool = True,
    probe: bool = True,
    dtype: torch.dtype | str | None = None,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
) -> Receipt:
    """Proof that the PEFT adapter in `adapter_dir` lies over `model`, whole, active, and changing something.

    model: a `PeftModel`, or a transformers model that loaded the adapter itself. adapter_name: its name in the model;
    None takes the only one, or the active one. fresh: the adapter is still an identity (zero `lora_B`), on purpose.
    check_base: hold the base weights too, against the model that the adapter's config names, where that is on this
    machine. probe: run the model with and without the adapter and compare. dtype: as for `verify_loaded`.

    Returns the receipt of the adapter's tensors. Raises RefusedError with every finding; NotFoundError and
    DamagedFileError when there is no adapter to read.
    """
    path = Path(adapter_dir)
    terms = Terms(declared=declared_dtypes(dtype), allowed_tensors=allowed_tensors, allowed_gates=allowed_gates)
    try:
        adapter = open_adapter(path, find_base=cached_source)
    except AprError:
        refuse_unless_accepted(examine_adapter(path, terms.road_options(), AdapterOptions(is_fresh=fresh)))
        raise
    try:
        held = _hold(unwrap(model), adapter, adapter_name, terms, is_fresh=fresh, probe=probe)
        examination = prove(held)
    finally:
        adapter.checkpoint.close()
    if check_base and adapter.base is not None:
        examination = examination._replace(findings=(*examination.findings, *_base_findings(model, adapter, terms)))
    refuse_unless_accepted(examination, "the adapter does not lie over the model as its directory says")
    assert examination.facts.receipt is not None
    return examination.facts.receipt


def _hold(
    unwrapped: Unwrapped, adapter: Adapter, asked: str | None, terms: Terms, *, is_fresh: bool, probe: bool
) -> Held:
    owner = owner_of(unwrapped)
    options = terms.road_options()
    findings = judge_files(adapter, base_of(adapter, options), options, AdapterOptions(is_fresh=is_fresh))
    stored = frozenset(adapter.checkpoint.tensors)
    name = None if owner is None else _adapter_name(owner, asked)
    if owner is None or name is None:
        there = "no adapter" if owner is None else ", ".join(owner.peft_config)
        finding = Finding(
            coverage.ID,
            Status.REFUSE,
            f"{len(stored)} adapter tensors are applied to nothing: the model has no such adapter",
            expected=asked or "an adapter",
            found=there,
            remedy=f"PeftModel.from_pretrained(model, {str(adapter.path)!r}), and keep what it returns",
        )
        raise refused(f"the adapter in {adapter.path} is not in the model", [*findings, finding])
    tensors = {key: whole_tensor(value) for key, value in adapter_state(owner, name, stored).items()}
    named_so = {key.replace(".default.", "."): key for key in stored}
    tensors = {named_so.get(key, key): value for key, value in tensors.items()}
    if all(key.startswith(PREFIX) for key in stored) and not any(key.startswith(PREFIX) for key in tensors):
        tensors = {PREFIX + key: value for key, value in tensors.items()}
    facts = _planned(adapter, tensors, terms)._replace(verdict=_NOTHING_KNOWN)
    findings += run_stage(Stage.HEADERS, facts, terms.allowed_gates, [coverage.GATE, shapes.GATE])
    facts = facts._replace(values=read_values(adapter.checkpoint.tensors.values()))
    others = _acting_others(unwrapped, owner, name)
    gates: tuple[Gate, ...] = (receipt.GATE, *applied_gates(unwrapped, owner, name, adapter, others, is_fresh, probe))
    examination = Examination(facts, findings, terms.road_options())
    return Held(ResidentModel(unwrapped, tensors, (), ()), examination, tensors, gates, (), terms)


def _planned(adapter: Adapter, tensors: Mapping[str, torch.Tensor], terms: Terms) -> InitFacts:
    from apr.loading.torch_dtypes import from_torch_dtype

    kind = Architecture("PeftModel", str(adapter.config.get("peft_type")), Kind.DECODER)
    expected = {name: ExpectedTensor(name, tuple(tensor.shape)) for name, tensor in tensors.items()}
    target = Target(kind, ResolvedConfig(kind, {}, {}, ()), expected, "the model")
    plan = make_plan(adapter.checkpoint, target, allowed=terms.allowed_tensors)
    assignments = tuple(
        each._replace(cast_to=from_torch_dtype(tensors[each.model_name].dtype)) for each in plan.assignments
    )
    return adapter_facts(adapter.path, adapter, None)._replace(
        plan=plan._replace(assignments=assignments),
        plan_note=None,
        allow_words=terms.road_options().allow_words,
    )


def _adapter_name(owner: Any, asked: str | None) -> str | None:
    names = list(owner.peft_config)
    if asked is not None:
        return asked if asked in names else None
    if len(names) == 1:
        return str(names[0])
    active = getattr(owner, "active_adapter", None)
    if not isinstance(active, str):  # A transformers model has a method of that name.
        acting = acting_names(unwrap(owner).module)
        active = acting[0] if len(acting) == 1 else None
    return active if active in names else None


def _acting_others(unwrapped: Unwrapped, owner: Any, name: str) -> tuple[str, ...]:
    """Adapters beside `name` that take part in a forward pass and may change what it computes."""
    others = [each for each in acting_names(unwrapped.module) if each != name and each in owner.peft_config]
    if not others:
        return ()
    resident = read_resident(unwrapped.outer)
    return tuple(each for each in others if effect_of(resident, owner, each) is not Effect.NONE)


def _base_findings(model: torch.nn.Module, adapter: Adapter, terms: Terms) -> tuple[Finding, ...]:
    """What holding the base weights against the base model on disk says, marked as the base's."""
    from apr.library.verifying import examine_model, open_or_refuse

    assert adapter.base is not None
    without_names = with_adapter(replace(terms, allowed_tensors=NO_REASONS), adapter)
    checkpoint = open_or_refuse(adapter.base, without_names)
    try:
        _, examination = examine_model(model, checkpoint, without_names, replay_probe=False)
    finally:
        checkpoint.close()
    findings = explained(examination.findings, unwrap(model))
    return tuple(each._replace(message=f"base model {adapter.base}: {each.message}") for each in findings)
