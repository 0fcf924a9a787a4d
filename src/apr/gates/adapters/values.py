"""INV-INIT-VALUES-001 of an adapter: values that make it do nothing, or break it (class M of the failures)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from apr.gates import values as model_values
from apr.gates.adapters.companions import factors
from apr.gates.adapters.facts import PREFIX, Adapter, LoraTensor, lora_tensors, without_partner
from apr.gates.adapters.targets import saved_modules
from apr.gates.finding import Finding, Status
from apr.gates.words import folded
from apr.loading.roles import role_of
from apr.loading.values import TensorFacts

ID = model_values.ID

Row = tuple[list[str], str, str]
"""Names, what they are, what was expected."""


def check_values(
    adapter: Adapter,
    values: Mapping[str, TensorFacts],
    of_base: Collection[str],
    allowed: Mapping[str, str],
    *,
    is_fresh: bool,
    fresh_words: str,
) -> Iterable[Finding]:
    """NaN, tensors without elements, pairs of which a half is zero and nobody meant it, and tensors held whole with
    values that no model's tensor may have.

    of_base: the tensors of `values` that the base has too. is_fresh: an adapter that is still an identity is meant;
    fresh_words: how this caller says so.
    """
    seen = {name: each for name, each in values.items() if name not in allowed}
    rows = [
        (
            [name for name, each in seen.items() if each.entry.element_count == 0],
            "hold no elements: shards that were never gathered",
            "at least one element",
        ),
        (
            [name for name, each in seen.items() if each.non_finite_count],
            "hold NaN or infinite values",
            "finite values",
        ),
        (
            [name for name in factors(seen) if seen[name].is_all_zero],
            "multiply what the adapter does, and are zero everywhere",
            "values away from zero",
        ),
        *(_dead(seen) if is_fresh else _idle(seen)),
        # A head that the base lacks may begin at zero.
        *_forbidden(adapter, {name: each for name, each in seen.items() if name in of_base or not is_fresh}),
    ]
    remedy = f"get the trained adapter; if it is meant to be untrained, say so: {fresh_words}"
    findings = [
        Finding(
            ID,
            Status.REFUSE,
            f"{len(names)} of {len(seen)} adapter tensors {what}",
            expected,
            folded(tuple(sorted(names))),
            "get another copy of the adapter" if is_fresh else remedy,
        )
        for names, what, expected in rows
        if names
    ]
    yield from findings
    if not findings:
        state = "declared fresh" if is_fresh else "trained"
        yield Finding(ID, Status.PASS, f"{len(seen)} adapter tensors hold finite values ({state})")


def _zero_halves(seen: Mapping[str, TensorFacts]) -> list[LoraTensor]:
    return [each for each in lora_tensors(seen) if seen[each.name].is_all_zero]


def _dead(seen: Mapping[str, TensorFacts]) -> Iterator[Row]:
    """Before training one half of a pair is zero: `lora_B`; `lora_A` of an embedding, and of MiCA. Never both."""
    halves = _zero_halves(seen)
    alone = set(without_partner(halves))
    both = [each.name for each in halves if each not in alone]
    yield both, "are zero in both halves of a pair: it can neither act nor learn", "values away from zero in one half"


def _idle(seen: Mapping[str, TensorFacts]) -> Iterator[Row]:
    halves, nothing = _zero_halves(seen), "the adapter changes nothing there"
    for part, is_output in (("lora_A", False), ("lora_B", True)):
        names = [each.name for each in halves if each.is_output is is_output]
        yield names, f"are a zero `{part}`: {nothing}", "trained values, or an adapter declared fresh"
    if not lora_tensors(seen) and all(each.is_all_zero for each in seen.values()):
        yield list(seen), "are zero, and so is the whole adapter", "trained values"


def _forbidden(adapter: Adapter, seen: Mapping[str, TensorFacts]) -> Iterator[Row]:
    """Tensors held whole (`modules_to_save`, embeddings, rows of tokens) with values that no model's may have."""
    whole = [each for name, each in seen.items() if _is_held_whole(adapter, name)]
    zero = [each.entry.name for each in whole if each.is_all_zero and not role_of(each.entry).may_be_zero]
    constant = [
        each.entry.name
        for each in whole
        if each.is_constant
        and not each.is_all_zero
        and not each.non_finite_count
        and not role_of(each.entry).may_be_constant
    ]
    yield zero, "are held whole and zero everywhere, which their role forbids", "trained values"
    yield constant, "are held whole and hold one value everywhere, which their role forbids", "trained values"


def _is_held_whole(adapter: Adapter, name: str) -> bool:
    if adapter.is_lora:
        return not any(part.startswith("lora_") for part in name.split("."))
    return bool(saved_modules(adapter.config, [name.removeprefix(PREFIX).rpartition(".")[0]]))
