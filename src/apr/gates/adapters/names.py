"""INV-INIT-COVERAGE-001 of an adapter: names that PEFT loads, whole pairs, and the modules that the config promises."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from apr.gates import coverage
from apr.gates.adapters.account import Account
from apr.gates.adapters.companions import mismatches
from apr.gates.adapters.facts import PREFIX, Adapter, lora_tensors, without_partner
from apr.gates.adapters.kinds import MARKS, has_tensors_of, problem_of
from apr.gates.finding import Finding, Status
from apr.gates.words import folded
from apr.identity.wrappers import WRAPPER_PARTS

ID = coverage.ID
COMPLETE_COPY = "get a complete copy of the adapter"
TRUE_CONFIG = "get the adapter_config.json that the adapter was trained with"

# `lora_A.style.weight`: a state dict saved as it is, with the name the adapter had in memory.
_NAMED = re.compile(r".+\.lora_(?:embedding_)?[AB]\.(?P<adapter>[^.]+)(?<!\.weight)(?<!\.bias)(\.weight)?")


def check_names(adapter: Adapter, account: Account | None, allowed: Mapping[str, str]) -> Iterable[Finding]:
    """Whether every name is one that PEFT loads, every half has its partner, and every adapted module has both.

    account: of both sides, None where the base model is not on this machine. allowed: names let through.
    """
    names = tuple(sorted(adapter.checkpoint.tensors))
    judged = tuple(name for name in names if name not in allowed)
    findings = [*_doubled(judged), *_wrapped(judged), *_named(judged)]
    findings += [] if findings else _prefixes(adapter, judged)
    findings += _of_another_kind(adapter, names)
    if adapter.is_lora and not findings:
        findings += _halves(names, allowed)
        findings += _companions(adapter, allowed)
        if account is not None and not findings:
            findings += _sides(adapter, account, allowed)
    yield from findings
    if not findings:
        if problem_of(adapter.config.get("peft_type")) is None:
            yield Finding(ID, Status.PASS, _praise(adapter, account, len(names)))
        if account is not None and account.undecided is not None:
            yield Finding(ID, Status.UNCHECKED, account.undecided)
        if not adapter.is_lora:
            said = (
                f"of kind {adapter.config.get('peft_type')!s:.80} the files do not tell which module each tensor is for"
            )
            yield Finding(ID, Status.UNCHECKED, f"{said}; only of LoRA do they")


def _praise(adapter: Adapter, account: Account | None, count: int) -> str:
    named = f"{count} adapter tensors are named as PEFT loads them"
    if account is None or account.undecided is not None:
        return named
    return f"{named}, for all {account.promised_count} modules that the config adapts"


def _prefixes(adapter: Adapter, names: tuple[str, ...]) -> Iterator[Finding]:
    bare = tuple(name for name in names if not name.startswith("base_model."))
    has_no_place = not adapter.is_lora and len(bare) == len(names)  # Prompt tensors belong to no module of the base.
    if bare and not has_no_place:
        share = "all" if len(bare) == len(names) else f"{len(bare)} of"
        yield _refusal(
            f"{share} {len(names)} adapter tensors lack the prefix `{PREFIX}`, so PEFT applies none of them",
            f"{PREFIX}{bare[0]}",
            bare,
            "save the adapter from the PeftModel itself: model.save_pretrained(directory)",
        )


def _doubled(names: tuple[str, ...]) -> Iterator[Finding]:
    twice = tuple(name for name in names if name.split(".").count("base_model") > 1)
    if twice:
        yield _refusal(
            f"{len(twice)} of {len(names)} adapter names carry `{PREFIX}` twice, as a PeftModel inside a PeftModel "
            "leaves them, and PEFT applies none of those",
            f"{PREFIX} once",
            twice,
            "save the adapter from the outer model's base model, or merge the first adapter before the second is added",
        )


def _wrapped(names: tuple[str, ...]) -> Iterator[Finding]:
    for part in WRAPPER_PARTS.keys() - {"base_model"}:
        # A model may call a part of itself `module`; a wrapper stands before everything.
        carriers = tuple(
            name
            for name in names
            if (name.removeprefix(PREFIX).startswith("module.") if part == "module" else part in name.split("."))
        )
        if carriers:
            yield _refusal(
                f"{len(carriers)} of {len(names)} adapter names carry `{part}.`, put there by {WRAPPER_PARTS[part]}",
                "names without wrapper parts",
                carriers,
                "unwrap the model before saving the adapter",
            )


def _named(names: tuple[str, ...]) -> Iterator[Finding]:
    matches = {name: _NAMED.fullmatch(name) for name in names}
    found = {name: match["adapter"] for name, match in matches.items() if match and match["adapter"] != "default"}
    if found:
        yield _refusal(
            f"{len(found)} of {len(names)} adapter names carry the adapter's own name, "
            f"{', '.join(sorted(set(found.values())))}, and PEFT applies them under no other",
            f"{PREFIX}MODULE.lora_A.weight",
            tuple(found),
            "save the adapter from the PeftModel itself: model.save_pretrained(directory)",
        )


def _of_another_kind(adapter: Adapter, names: tuple[str, ...]) -> Iterator[Finding]:
    kind = adapter.config.get("peft_type")
    if not adapter.is_lora and not has_tensors_of(kind, names):
        yield _refusal(
            f"none of {len(names)} tensors is one of {kind}, which the config names, so PEFT applies none of them",
            f"names with `{MARKS[str(kind).upper()]}`",
            names,
            TRUE_CONFIG,
        )


def _companions(adapter: Adapter, allowed: Collection[str]) -> Iterator[Finding]:
    for companion, found, is_missing in mismatches(adapter, allowed):
        setting = f"{companion.setting} {adapter.config.get(companion.setting)!r:.200}"
        if is_missing:
            lacking = f"{len(found)} adapted modules lack" if found else "the file lacks the"
            said = f"{lacking} {companion.what}, and the config asks for them, so PEFT would begin with fresh ones"
            yield _refusal(said, f"those of {setting}", found, COMPLETE_COPY)
        else:
            said = (
                f"{len(found)} tensors are {companion.what}, which the config does not ask for, so PEFT would drop them"
            )
            yield _refusal(said, f"none, with {setting}", found, TRUE_CONFIG)


def _halves(names: tuple[str, ...], allowed: Collection[str]) -> Iterator[Finding]:
    tensors = lora_tensors(names)
    if not tensors:
        yield _refusal(
            "the file holds no LoRA tensor, though its config says LoRA",
            f"{PREFIX}MODULE.lora_A.weight and .lora_B.weight",
            names,
            None,
        )
    alone = tuple(each.name for each in without_partner(tensors) if each.name not in allowed)
    if alone:
        said = f"{len(alone)} LoRA tensors lack their other half"
        yield _refusal(said, "lora_A and lora_B of every adapted module", alone, COMPLETE_COPY)


def _sides(adapter: Adapter, account: Account, allowed: Collection[str]) -> Iterator[Finding]:
    strays = tuple(name for name in account.strays if name not in allowed)
    rows = (
        (
            account.nowhere,
            "adapted modules do not exist in the base model",
            f"modules of {adapter.base}",
            "name the base model that the adapter was trained on",
        ),
        (
            account.bare,
            "modules that the config adapts have no tensors in the file",
            "lora_A and lora_B of every target module",
            COMPLETE_COPY,
        ),
        (
            account.unpromised,
            "modules have adapter tensors, and the config does not adapt them, so PEFT would drop them",
            f"target_modules {adapter.config.get('target_modules')!r:.200}",
            TRUE_CONFIG,
        ),
        (
            account.unsaved,
            "modules that the config trains whole (modules_to_save) have no tensors in the file",
            "their weights",
            COMPLETE_COPY,
        ),
        (
            account.biases,
            "biases of the base were trained, as the config says (bias), and the file holds none of them",
            f"biases, with bias {adapter.config.get('bias')!r:.200}",
            COMPLETE_COPY,
        ),
        (
            strays,
            "adapter tensors belong to nothing that the config or the base model names, so PEFT would drop them",
            "tensors of adapted modules, or of modules_to_save",
            TRUE_CONFIG,
        ),
    )
    for names, what, expected, remedy in rows:
        if names:
            yield _refusal(f"{len(names)} {what}", expected, names, remedy)


def _refusal(message: str, expected: str, found: tuple[str, ...], remedy: str | None) -> Finding:
    return Finding(ID, Status.REFUSE, message, expected, folded(found) or "no tensors", remedy)
