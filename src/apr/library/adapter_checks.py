"""What must hold of an adapter directory before anybody loads it (class M: adapters that change nothing)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from apr.errors import AprError
from apr.formats.base import Checkpoint
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination, deepen, examine
from apr.gates.runner import run_stage
from apr.gates.table import GATES
from apr.gates.words import folded
from apr.library.adapter_files import (
    ADAPTER_CONFIG_NAME,
    Adapter,
    adapter_facts,
    lora_tensors,
    open_adapter,
)
from apr.library.adapter_names import COVERAGE_ID, name_findings
from apr.library.holding import Terms
from apr.loading.values import TensorFacts

IDENTITY_ID = "FALSIFY-APR-PRETRAIN-INIT-005"
SHAPE_ID = "INV-INIT-SHAPE-001"
VALUES_ID = "INV-INIT-VALUES-001"
OF_ANY_FILE = frozenset({"FALSIFY-APR-PRETRAIN-INIT-003", "FALSIFY-APR-PRETRAIN-INIT-004", "INV-FILE-INTEGRITY-001"})

Check = Callable[[Adapter], Iterable[Finding]]


def examine_adapter(path: Path, *, deep: bool, is_fresh: bool, terms: Terms) -> Examination:
    """Every finding on the adapter in `path`, and on its base model where that is on this machine.

    An adapter is small, so its values are always read; deep: those of the base model too. is_fresh: an adapter that is
    still an identity is meant. Nothing is raised for a bad adapter; its files are closed.
    """
    try:
        adapter, error = open_adapter(path), None
    except AprError as reason:
        adapter, error = None, reason
    facts = adapter_facts(path, adapter, error)
    options = terms.road_options()
    gates = [gate for gate in GATES if gate.id in OF_ANY_FILE]
    findings = run_stage(Stage.HEADERS, facts, terms.allowed_gates, gates)
    if adapter is None:
        return Examination(facts, findings, options)
    try:
        findings += judge_files(adapter, is_fresh=is_fresh, terms=terms)
        if adapter.base is not None:
            findings += _base_findings(adapter.base, deep, terms)
    finally:
        adapter.checkpoint.close()
    if adapter.base is None:
        findings += (Finding(IDENTITY_ID, Status.UNCHECKED, adapter.base_note),)
    return Examination(facts, findings, options)


def judge_files(adapter: Adapter, *, is_fresh: bool, terms: Terms) -> tuple[Finding, ...]:
    """All findings on the adapter's own files; its checkpoint is open."""
    facts = adapter_facts(adapter.path, adapter, None)
    values = _read_values(adapter.checkpoint)
    base_names = _base_names(adapter.base)
    checks: list[tuple[str, Check]] = [
        (IDENTITY_ID, _says_what_it_is),
        (COVERAGE_ID, lambda each: name_findings(each, base_names, terms.allowed_tensors)),
        (SHAPE_ID, _ranks),
        (VALUES_ID, lambda each: zero_findings(each, values, is_fresh=is_fresh, allowed=terms.allowed_tensors)),
    ]
    gates = [Gate(gate_id, gate_id, Stage.HEADERS, _bound(check, adapter)) for gate_id, check in checks]
    return run_stage(Stage.HEADERS, facts, terms.allowed_gates, gates)


def _bound(check: Check, adapter: Adapter) -> Callable[[InitFacts], Iterable[Finding]]:
    return lambda facts: check(adapter)


def _read_values(checkpoint: Checkpoint) -> Mapping[str, TensorFacts]:
    from apr.loading.values import read_values

    return read_values(checkpoint.tensors.values())


def _base_names(base: Path | None) -> frozenset[str] | None:
    if base is None:
        return None
    examination = examine(base)
    examination.close()
    checkpoint = examination.facts.checkpoint
    return None if checkpoint is None else frozenset(checkpoint.tensors)


def _base_findings(base: Path, deep: bool, terms: Terms) -> tuple[Finding, ...]:
    """What the road says of the base model, each refusal marked as the base's."""
    examination = examine(base, terms.road_options()._replace(allowed_tensors={}))
    try:
        examination = deepen(examination) if deep else examination
    finally:
        examination.close()
    return tuple(each._replace(message=f"base model {base}: {each.message}") for each in examination.findings)


def _says_what_it_is(adapter: Adapter) -> Iterable[Finding]:
    config = adapter.config
    problems = []
    if not isinstance(config.get("peft_type"), str):
        problems.append("peft_type names no kind of adapter")
    if adapter.is_lora:
        problems += [
            f"{name} is {config.get(name)!r}, not a positive number"
            for name in ("r", "lora_alpha")
            if not isinstance(config.get(name), int | float) or isinstance(config.get(name), bool) or config[name] <= 0
        ]
    if problems:
        yield Finding(
            IDENTITY_ID,
            Status.REFUSE,
            f"{ADAPTER_CONFIG_NAME} does not say how the adapter is applied",
            expected="peft_type, and for LoRA a positive r and lora_alpha",
            found="; ".join(problems),
            remedy="get the config that the adapter was trained with",
        )
    else:
        yield Finding(IDENTITY_ID, Status.PASS, f"an adapter of kind {config['peft_type']}")


def _ranks(adapter: Adapter) -> Iterable[Finding]:
    config, tensors = adapter.config, adapter.checkpoint.tensors
    if not adapter.is_lora or config.get("rank_pattern") or config.get("use_dora"):
        yield Finding(SHAPE_ID, Status.UNCHECKED, "the rank of each module is not one number in the config")
        return
    wrong = []
    for each in lora_tensors(tensors):
        shape = tensors[each.name].shape
        rank = shape[-1] if each.is_output and len(shape) == 2 else shape[0] if shape else None
        rank = shape[1] if each.is_output and len(shape) > 2 else rank
        if rank != config.get("r"):
            wrong.append(f"{each.name} {tuple(shape)}")
    if wrong:
        yield Finding(
            SHAPE_ID,
            Status.REFUSE,
            f"{len(wrong)} LoRA tensors are not of the rank that the config states",
            expected=f"rank {config.get('r')}",
            found=", ".join(wrong[:6]),
            remedy=f"get the {ADAPTER_CONFIG_NAME} that the adapter was trained with",
        )
    else:
        yield Finding(SHAPE_ID, Status.PASS, f"every LoRA tensor has rank {config.get('r')}")


def zero_findings(
    adapter: Adapter, values: Mapping[str, TensorFacts], *, is_fresh: bool, allowed: Mapping[str, str]
) -> Iterable[Finding]:
    """Values that make the adapter do nothing, or break it: NaN, a zero `lora_A`, a zero `lora_B` that nobody meant."""
    seen = {name: each for name, each in values.items() if name not in allowed}
    tensors = {each.name: each for each in lora_tensors(seen)}
    outputs = [name for name, each in tensors.items() if each.is_output]
    zero = {name for name, each in seen.items() if each.is_all_zero}
    empty = tuple(sorted(name for name, each in seen.items() if each.entry.element_count == 0))
    non_finite = tuple(sorted(name for name, each in seen.items() if each.non_finite_count))
    rows = [
        (empty, "hold no elements: shards that were never gathered", "at least one element"),
        (non_finite, "hold NaN or infinite values", "finite values"),
        (
            tuple(sorted(n for n in zero if n in tensors and not tensors[n].is_output)),
            "are a zero `lora_A`: with it an adapter can neither act nor learn",
            "values away from zero",
        ),
    ]
    if not is_fresh:
        what = "are a zero `lora_B`: the adapter changes nothing there"
        rows.append((tuple(sorted(zero.intersection(outputs))), what, "trained values, or an adapter declared fresh"))
        rest = tuple(sorted(zero - set(tensors)))
        rows.append((rest if len(rest) == len(seen) else (), "are zero, and so is the whole adapter", "trained values"))
    findings = [
        Finding(
            VALUES_ID,
            Status.REFUSE,
            f"{len(names)} of {len(seen)} adapter tensors {what}",
            expected,
            folded(names),
            "get the trained adapter; if it is meant to be untrained, say so: fresh=True",
        )
        for names, what, expected in rows
        if names
    ]
    yield from findings
    if not findings:
        state = "declared fresh" if is_fresh else "trained"
        yield Finding(VALUES_ID, Status.PASS, f"{len(seen)} adapter tensors hold finite values ({state})")
