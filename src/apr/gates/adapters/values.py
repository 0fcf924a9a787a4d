"""INV-INIT-VALUES-001 of an adapter: values that make it do nothing, or break it (class M of the failures)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.gates import values as model_values
from apr.gates.adapters.facts import lora_tensors
from apr.gates.finding import Finding, Status
from apr.gates.words import folded
from apr.loading.values import TensorFacts

ID = model_values.ID


def check_values(
    values: Mapping[str, TensorFacts], allowed: Mapping[str, str], *, is_fresh: bool, fresh_words: str
) -> Iterable[Finding]:
    """NaN, tensors without elements, a zero `lora_A`, and a zero `lora_B` that nobody meant.

    is_fresh: an adapter that is still an identity is meant; fresh_words: how this caller says so.
    """
    seen = {name: each for name, each in values.items() if name not in allowed}
    tensors = {each.name: each for each in lora_tensors(seen)}
    outputs = [name for name, each in tensors.items() if each.is_output]
    zero = {name for name, each in seen.items() if each.is_all_zero}
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
            [name for name in zero if name in tensors and not tensors[name].is_output],
            "are a zero `lora_A`: with it an adapter can neither act nor learn",
            "values away from zero",
        ),
    ]
    if not is_fresh:
        rest = zero - set(tensors)
        what = "are a zero `lora_B`: the adapter changes nothing there"
        rows += [
            ([*zero.intersection(outputs)], what, "trained values, or an adapter declared fresh"),
            ([*rest] if len(rest) == len(seen) else [], "are zero, and so is the whole adapter", "trained values"),
        ]
    remedy = f"get the trained adapter; if it is meant to be untrained, say so: {fresh_words}"
    findings = [
        Finding(
            ID,
            Status.REFUSE,
            f"{len(names)} of {len(seen)} adapter tensors {what}",
            expected,
            folded(tuple(sorted(names))),
            remedy,
        )
        for names, what, expected in rows
        if names
    ]
    yield from findings
    if not findings:
        state = "declared fresh" if is_fresh else "trained"
        yield Finding(ID, Status.PASS, f"{len(seen)} adapter tensors hold finite values ({state})")
