"""INV-INIT-VALUES-001: values are finite, and not empty, all-zero or constant where the role forbids it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.formats.dtypes import ENCODINGS
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded
from apr.loading.ledger import Rule
from apr.loading.roles import Role, across_layers, role_of
from apr.loading.values import TensorFacts

ID = "INV-INIT-VALUES-001"
REMEDY = "the producer wrote these values; get another copy, or find the save that lost them (docs/failure-modes.md)"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.values is None or facts.plan is None:
        yield Finding(ID, Status.UNCHECKED, "the values were not read")
        return
    assigned = {each.stored_name for each in facts.plan.assignments}
    seen = {name: value for name, value in facts.values.items() if name in assigned}
    findings = [*_forbidden(seen), *_fresh_among_trained(seen), *_unequal_ties(facts)]
    yield from findings
    if not findings:
        yield Finding(ID, Status.PASS, f"{len(seen)} tensors hold finite values that fit their roles")


def _forbidden(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    non_finite = [name for name, value in seen.items() if value.non_finite_count]
    empty = [name for name, value in seen.items() if value.entry.element_count == 0]
    zero = [name for name, value in seen.items() if value.is_all_zero and not role_of(value.entry).may_be_zero]
    constant = [
        name
        for name, value in seen.items()
        if value.is_constant and not value.is_all_zero and not role_of(value.entry).may_be_constant
    ]
    rows = (
        (non_finite, "hold NaN or infinite values", "finite values"),
        (empty, "hold no elements", "at least one element"),
        (zero, "are zero everywhere, which their role forbids", "trained values"),
        (constant, "hold one value everywhere, which their role forbids", "trained values"),
    )
    for names, what, expected in rows:
        if names:
            yield Finding(
                ID, Status.REFUSE, f"{len(names)} tensors {what}", expected, folded(tuple(sorted(names))), REMEDY
            )


def _fresh_among_trained(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Norm gains that are exactly 1 in some layers while the same gain was trained in most others."""
    groups: dict[str, list[TensorFacts]] = {}
    for name, value in seen.items():
        if role_of(value.entry) is Role.NORM_GAIN and ENCODINGS[value.entry.dtype].is_float:
            groups.setdefault(across_layers(name), []).append(value)
    for members in groups.values():
        fresh = [each.entry.name for each in members if each.is_constant and each.mean == 1.0]
        if fresh and len(fresh) * 2 < len(members):
            yield Finding(
                ID,
                Status.REFUSE,
                f"{len(fresh)} norm gains are at their initial value while the same gain in other layers is trained",
                expected="trained values in every layer",
                found=folded(tuple(sorted(fresh))),
                remedy=REMEDY,
            )


def _unequal_ties(facts: InitFacts) -> Iterable[Finding]:
    assert facts.plan is not None
    assert facts.values is not None
    for ruling in facts.plan.ledger.ruled:
        if ruling.rule is not Rule.TIED_COPY or ruling.partner is None:
            continue
        own, partner = facts.values.get(ruling.name), facts.values.get(ruling.partner)
        if own is not None and partner is not None and own.blake3_hex != partner.blake3_hex:
            yield Finding(
                ID,
                Status.REFUSE,
                f"the config ties {ruling.name} to {ruling.partner}, but the file holds different values for them",
                expected=f"equal bytes, blake3 {partner.blake3_hex}",
                found=f"blake3 {own.blake3_hex}",
                remedy="if the head was trained apart, the config must say so: "
                f"apr stamp {facts.path} --set tie_word_embeddings=false -o OUT",
            )


GATE = Gate(ID, "values are finite and fit their roles", Stage.VALUES, _check)
