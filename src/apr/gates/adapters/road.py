"""The road of an adapter directory: its own files, what they promise, and the base model that they lie over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from apr.errors import AprError, shown_value
from apr.formats.base import Format
from apr.formats.dtypes import ENCODINGS
from apr.formats.peft.read import ADAPTER_CONFIG_NAME
from apr.gates import integrity, presence, shapes
from apr.gates.adapters import names, values
from apr.gates.adapters.account import Account, account_of, base_modules, wrong_ranks
from apr.gates.adapters.facts import Adapter, FindBase, adapter_facts, open_adapter
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.identity_present import ID as IDENTITY_ID
from apr.gates.road import Examination, RoadOptions, deepen, examine
from apr.gates.runner import check_overrides, run_stage

OF_ANY_FILE = (presence.EXISTS, presence.RECOGNISED, integrity.HEADERS)


class AdapterOptions(NamedTuple):
    """How to look at an adapter. base: the base model, None for the one that its config names, looked up by `find_base`
    where that is no local path. is_fresh: an adapter that is still an identity is meant; fresh_words: how this caller
    says so."""

    base: Path | None = None
    find_base: FindBase | None = None
    is_fresh: bool = False
    fresh_words: str = "fresh=True"


def examine_adapter(
    path: Path,
    options: RoadOptions,
    adapter_options: AdapterOptions,
    walk_base: Callable[[Path, RoadOptions], Examination] | None = None,
) -> Examination:
    """Every finding on the adapter in `path`, and on its base model where that is on this machine.

    An adapter is small, so its values are always read. walk_base: how far the base is walked; None: its headers.
    Nothing is raised for a bad adapter; all files are closed.
    """
    check_overrides(options.allowed_gates)
    try:
        adapter, error = open_adapter(path, adapter_options.base, adapter_options.find_base), None
    except AprError as reason:
        adapter, error = None, reason
    facts = adapter_facts(path, adapter, error)
    findings = run_stage(Stage.HEADERS, facts, options.allowed_gates, OF_ANY_FILE)
    if adapter is None:
        return Examination(facts, findings, options)
    try:
        base = None if adapter.base is None else _walk_base(adapter, options, walk_base or _headers)
        findings += judge_files(adapter, base, options, adapter_options)
    finally:
        adapter.checkpoint.close()
    findings += (_unchecked_base(adapter),) if base is None else _as_of_base(adapter, base)
    return Examination(facts, findings, options)


def base_of(adapter: Adapter, options: RoadOptions) -> Examination | None:
    """The headers of the base model of `adapter`, its files closed; None where it is not on this machine."""
    return None if adapter.base is None else _walk_base(adapter, options, _headers)


def judge_files(
    adapter: Adapter, base: Examination | None, options: RoadOptions, adapter_options: AdapterOptions
) -> tuple[Finding, ...]:
    """All findings on the adapter's own files; its checkpoint is open. base: of its base model, None without one."""
    from apr.loading.values import read_values

    tensors = read_values(adapter.checkpoint.tensors.values())
    account = None if base is None or not adapter.is_lora else _account(adapter, base)
    allowed = options.allowed_tensors
    checks: dict[str, Iterable[Finding]] = {
        IDENTITY_ID: _says_what_it_is(adapter),
        names.ID: names.check_names(adapter, account, allowed),
        shapes.ID: _shapes(adapter, account),
        values.ID: values.check_values(
            tensors, allowed, is_fresh=adapter_options.is_fresh, fresh_words=adapter_options.fresh_words
        ),
    }
    gates = [Gate(gate_id, gate_id, Stage.HEADERS, partial(_said, said)) for gate_id, said in checks.items()]
    return run_stage(Stage.HEADERS, adapter_facts(adapter.path, adapter, None), options.allowed_gates, gates)


def _said(findings: Iterable[Finding], facts: InitFacts) -> Iterable[Finding]:
    return findings


def _headers(path: Path, options: RoadOptions) -> Examination:
    return examine(path, options)


def bytes_of_base(path: Path, options: RoadOptions) -> Examination:
    """Walk a base through its values as well: for callers that look deep."""
    return deepen(examine(path, options))


def _walk_base(adapter: Adapter, options: RoadOptions, walk: Callable[[Path, RoadOptions], Examination]) -> Examination:
    assert adapter.base is not None
    of_base = {name: why for name, why in options.allowed_tensors.items() if name not in adapter.checkpoint.tensors}
    examination = walk(adapter.base, options._replace(allowed_tensors=of_base))
    examination.close()
    return examination


def _account(adapter: Adapter, base: Examination) -> Account | None:
    """Both sides, over every tensor that the base stores or ties; None when the base could not be read."""
    facts = base.facts
    if facts.checkpoint is None:
        return None
    if facts.checkpoint.format is Format.GGUF:
        return Account(undecided="the base model is a GGUF file, which calls its tensors otherwise than PEFT does")
    expected = {} if facts.plan is None else facts.plan.target.expected
    tied = {name: each.shape for name, each in expected.items() if each.tied_to is not None}
    stored = {
        # Packed codes (4 bits and the like) do not have the shape of the weight that they stand for.
        name: entry.shape if ENCODINGS[entry.dtype].is_float else ()
        for name, entry in facts.checkpoint.tensors.items()
    }
    return account_of(adapter, base_modules({**tied, **stored}))


def _as_of_base(adapter: Adapter, base: Examination) -> tuple[Finding, ...]:
    """What the road says of the base model, each finding marked as the base's."""
    return tuple(each._replace(message=f"base model {adapter.base}: {each.message}") for each in base.findings)


def _unchecked_base(adapter: Adapter) -> Finding:
    return Finding(IDENTITY_ID, Status.UNCHECKED, adapter.base_note)


def _says_what_it_is(adapter: Adapter) -> Iterable[Finding]:
    config = adapter.config
    problems = []
    if not isinstance(config.get("peft_type"), str):
        problems.append("peft_type names no kind of adapter")
    if adapter.is_lora:
        problems += [
            f"{name} is {shown_value(config.get(name))}, not a positive number"
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
        yield Finding(IDENTITY_ID, Status.PASS, f"an adapter of kind {config['peft_type']}, no model by itself")


def _shapes(adapter: Adapter, account: Account | None) -> Iterable[Finding]:
    if not adapter.is_lora:
        yield Finding(shapes.ID, Status.UNCHECKED, "only of LoRA is it known from the files what shape each tensor has")
        return
    wrong, is_told = wrong_ranks(adapter)
    if wrong:
        yield Finding(
            shapes.ID,
            Status.REFUSE,
            f"{len(wrong)} LoRA tensors are not of the rank that the config states",
            expected=f"rank {adapter.config.get('r')}"
            + (" and those of rank_pattern" if adapter.config.get("rank_pattern") else ""),
            found=_listed(wrong),
            remedy=f"get the {ADAPTER_CONFIG_NAME} that the adapter was trained with",
        )
    misfits = () if account is None else account.misfits
    if misfits:
        yield Finding(
            shapes.ID,
            Status.REFUSE,
            f"{len(misfits)} LoRA tensors do not fit the modules of the base model that they adapt",
            expected=misfits[0][2],
            found=_listed([(name, shape) for name, shape, _ in misfits]),
            remedy="name the base model that the adapter was trained on",
        )
    if not wrong and not misfits:
        fitting = "" if account is None else ", and fits the module that it adapts"
        if is_told:
            yield Finding(shapes.ID, Status.PASS, f"every LoRA tensor has the rank that the config states{fitting}")
        else:
            yield Finding(shapes.ID, Status.UNCHECKED, "the rank of each module is not told by the config alone")


def _listed(rows: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    shown = [f"{name} {shape}" for name, shape in rows]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
