"""Names in an adapter file: the prefix PEFT expects, whole pairs, and the modules that the config promises."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from apr.gates import coverage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded
from apr.identity.wrappers import WRAPPER_PARTS
from apr.library.adapter_files import PREFIX, Adapter, lora_tensors, targets, without_partner

COVERAGE_ID = coverage.ID


def name_findings(adapter: Adapter, base_names: frozenset[str] | None, allowed: Mapping[str, str]) -> Iterable[Finding]:
    """Whether every name is one that PEFT loads, every half has its partner, and every adapted module has both.

    base_names: the tensors of the base model, None where that is not on this machine. allowed: names let through.
    """
    names = tuple(sorted(adapter.checkpoint.tensors))
    judged = tuple(name for name in names if name not in allowed)
    findings = [*_prefixes(adapter, judged), *_wrapped(judged)]
    if adapter.is_lora:
        findings += _halves(names, allowed)
        if base_names is not None and not findings:
            findings += _places(adapter, names, base_names)
    yield from findings
    if not findings:
        known = "" if adapter.is_lora else "; only of LoRA is it known from the files which module each belongs to"
        yield Finding(COVERAGE_ID, Status.PASS, f"{len(names)} adapter tensors are named as PEFT loads them{known}")


def _prefixes(adapter: Adapter, names: tuple[str, ...]) -> Iterable[Finding]:
    bare = tuple(name for name in names if not name.startswith("base_model."))
    has_no_place = not adapter.is_lora and len(bare) == len(names)  # Prompt tensors belong to no module of the base.
    if bare and not has_no_place:
        share = "all" if len(bare) == len(names) else f"{len(bare)} of"
        yield Finding(
            COVERAGE_ID,
            Status.REFUSE,
            f"{share} {len(names)} adapter tensors lack the prefix `{PREFIX}`, so PEFT applies none of them",
            expected=f"{PREFIX}{bare[0]}",
            found=folded(bare),
            remedy="save the adapter from the PeftModel itself: model.save_pretrained(directory)",
        )


def _wrapped(names: tuple[str, ...]) -> Iterable[Finding]:
    for part in WRAPPER_PARTS.keys() - {"base_model", "module"}:
        carriers = tuple(name for name in names if part in name.split("."))
        if carriers:
            yield Finding(
                COVERAGE_ID,
                Status.REFUSE,
                f"{len(carriers)} of {len(names)} adapter names carry `{part}.`, put there by {WRAPPER_PARTS[part]}",
                expected="names without wrapper parts",
                found=folded(carriers),
                remedy="unwrap the model before saving the adapter",
            )


def _halves(names: tuple[str, ...], allowed: Collection[str]) -> Iterable[Finding]:
    tensors = lora_tensors(names)
    if not tensors:
        yield Finding(
            COVERAGE_ID,
            Status.REFUSE,
            "the file holds no LoRA tensor, though its config says LoRA",
            expected=f"{PREFIX}MODULE.lora_A.weight and .lora_B.weight",
            found=folded(names) or "no tensors",
        )
    alone = [each for each in without_partner(tensors) if each.name not in allowed]
    if alone:
        yield Finding(
            COVERAGE_ID,
            Status.REFUSE,
            f"{len(alone)} LoRA tensors lack their other half",
            expected="lora_A and lora_B of every adapted module",
            found=folded(tuple(each.name for each in alone)),
            remedy="get a complete copy of the adapter",
        )


def _places(adapter: Adapter, names: tuple[str, ...], base_names: frozenset[str]) -> Iterable[Finding]:
    """Adapted modules that the base does not have, and modules the config promises to adapt that have no tensors."""
    adapted = {each.module for each in lora_tensors(names)}
    modules = {name.removesuffix(".weight") for name in base_names if name.endswith(".weight")}
    wanted = {module for module in modules if targets(adapter.config, module)}
    nowhere = tuple(sorted(module for module in adapted if module not in modules and wanted))
    if nowhere:
        yield Finding(
            COVERAGE_ID,
            Status.REFUSE,
            f"{len(nowhere)} adapted modules do not exist in the base model",
            expected=f"modules of {adapter.base}",
            found=folded(nowhere),
            remedy="name the base model that the adapter was trained on",
        )
    without = tuple(sorted(wanted - adapted))
    if without and not nowhere:
        yield Finding(
            COVERAGE_ID,
            Status.REFUSE,
            f"{len(without)} modules that the config adapts have no tensors in the file",
            expected="lora_A and lora_B of every target module",
            found=folded(without),
            remedy="get a complete copy of the adapter",
        )
