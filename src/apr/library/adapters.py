"""PEFT adapters over a resident model: every tensor applied, none of them nothing, over the base they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import AprError
from apr.gates import coverage, receipt, shapes
from apr.gates.adapters.facts import (
    PREFIX,
    Adapter,
    adapter_facts,
    lora_tensors,
    open_adapter,
    without_partner,
)
from apr.gates.adapters.road import AdapterOptions, base_of, examine_adapter, judge_files
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination
from apr.gates.runner import run_stage
from apr.identity.types import Architecture, Claim, Evidence, ExpectedTensor, Kind, ResolvedConfig, Verdict, VerdictKind
from apr.library.applied import applied_gates
from apr.library.casts import declared_dtypes
from apr.library.holding import NO_REASONS, Held, Terms, prove
from apr.library.refusal import refuse_unless_accepted, refused
from apr.library.resident import ResidentModel
from apr.library.source import cached_source
from apr.library.wrappers import Unwrapped, unwrap, unwrapped_names, whole_tensor
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


def refuse_unnamed_adapters(resident: ResidentModel, *, named: str | None = None) -> None:
    """Refuse adapters over the model that are more than an identity, other than the one called `named`.

    A fresh LoRA is an identity while a half of each pair is zero (`lora_B`, of an embedding `lora_A`), a fresh
    `modules_to_save` while it equals the module it copies; of other kinds it cannot be known, so they have to be named
    or declared fresh.
    """
    owner = owner_of(resident.unwrapped)
    if owner is None:
        return
    names = [name for name in owner.peft_config if name != named]
    active = [name for name in names if _acts(resident, owner, name)]
    if active:
        finding = Finding(
            receipt.ID,
            Status.REFUSE,
            f"an adapter that nobody named changes what the weights compute: {', '.join(active)}",
            expected="no adapter, a fresh one (zero `lora_B`), or one that is named",
            found=f"{len(resident.adapter_names)} adapter tensors",
            remedy="name its directory: adapter=PATH; or, if it is untrained on purpose: fresh_adapter=True",
        )
        raise refused("the model holds more than the named weights", [finding])


def owner_of(unwrapped: Unwrapped) -> Any | None:
    """Who knows the adapters: the `PeftModel`, or the transformers model that loaded them itself; None without any."""
    if unwrapped.peft_model is not None:
        return unwrapped.peft_model
    return unwrapped.module if getattr(unwrapped.module, "peft_config", None) else None


def _acts(resident: ResidentModel, owner: Any, name: str) -> bool:
    """Whether adapter `name` may change an output, judged by its tensors."""
    import torch

    if str(getattr(owner.peft_config[name].peft_type, "value", "")) != "LORA":
        return True
    state = {key: whole_tensor(value) for key, value in adapter_state(owner, name, frozenset()).items()}
    base = {PREFIX + key: value for key, value in resident.tensors.items()}
    pairs = lora_tensors(state)
    moving = [pair for pair in pairs if bool(torch.count_nonzero(state[pair.name]))]
    if len(without_partner(moving)) < len(moving):  # A pair changes something when neither half is zero.
        return True
    for key in state.keys() - {pair.name for pair in pairs}:
        copied = base.get(key if key.startswith(PREFIX) else PREFIX + key)
        if copied is None or not torch.equal(copied.detach().cpu(), state[key].detach().cpu().to(copied.dtype)):
            return True
    return False


def adapter_state(owner: Any, name: str, stored: frozenset[str]) -> dict[str, torch.Tensor]:
    """The tensors of adapter `name` as PEFT would save them. stored: names in a file; embeddings that PEFT saves
    whole when the vocabulary grew are looked up when the file has some."""
    from peft import get_peft_model_state_dict

    state = dict(get_peft_model_state_dict(owner, adapter_name=name, save_embedding_layers=False))
    if stored - state.keys():
        whole = get_peft_model_state_dict(owner, adapter_name=name, save_embedding_layers=True)
        state.update({key: value for key, value in whole.items() if key in stored})
    return {plain: state[key] for key, plain in unwrapped_names(state).items()}


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
    gates: tuple[Gate, ...] = (receipt.GATE, *applied_gates(unwrapped, owner, name, adapter, is_fresh, probe))
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
    return active if isinstance(active, str) and active in names else None


def _base_findings(model: torch.nn.Module, adapter: Adapter, terms: Terms) -> tuple[Finding, ...]:
    """What holding the base weights against the base model on disk says, marked as the base's."""
    from apr.library.verifying import examine_model, open_or_refuse

    assert adapter.base is not None
    without_names = replace(terms, allowed_tensors=NO_REASONS)
    checkpoint = open_or_refuse(adapter.base, without_names)
    try:
        _, examination = examine_model(model, checkpoint, without_names, replay_probe=False)
    finally:
        checkpoint.close()
    return tuple(each._replace(message=f"base model {adapter.base}: {each.message}") for each in examination.findings)
