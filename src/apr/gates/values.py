"""INV-INIT-VALUES-001: values are finite, and not empty, all-zero or constant where the role forbids it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from apr.errors import shell_word
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded, vocabulary_size
from apr.loading.ledger import Rule
from apr.loading.plan import counted_names
from apr.loading.roles import role_of
from apr.loading.scales import unscaled_by_choice

if TYPE_CHECKING:
    from apr.loading.values import TensorFacts

ID = VALUES_ID
# Weights of language models have a width of 0.005 to 0.5; a quantiser stretches them to the type's range (448, 57344).
LARGEST_STD_OF_A_WEIGHT = 4.0


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.values is None or facts.plan is None:
        yield Finding(ID, Status.UNCHECKED, "the values were not read")
        return
    # Here, as what reads headers only has no use for them.
    from apr.gates.layer_values import layer_findings
    from apr.gates.norm_values import norm_findings

    # A plan that does not balance is refused already; then every tensor is looked at, so that all is said at once.
    judged = counted_names(facts.checkpoint, facts.plan) if facts.checkpoint is not None else frozenset()
    seen = {name: value for name, value in facts.values.items() if name in judged}
    findings = [
        *_forbidden(seen),
        *_lost_endings(facts, seen),
        *layer_findings(facts, seen),
        *norm_findings(facts, seen),
        *_dropped_scales(facts, seen),
        *_unequal_ties(facts),
    ]
    yield from findings
    if not any(finding.status is Status.REFUSE for finding in findings):
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
                ID, Status.REFUSE, f"{len(names)} tensors {what}", expected, folded(tuple(sorted(names))), VALUES_REMEDY
            )


def _lost_endings(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    from apr.loading.fingerprints import lost_endings

    assert facts.checkpoint is not None
    known_tokens = facts.checkpoint.tokenizer_vocabulary_size
    lost = sorted(each.entry.name for each in lost_endings(seen.values(), vocabulary_size(facts), known_tokens))
    if lost:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(lost)} matrices end in nothing but zeros, as a copy that stopped early leaves them",
            expected="trained values to the last row",
            found=folded(tuple(lost)),
            remedy=VALUES_REMEDY,
        )


def _dropped_scales(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """8-bit weights that use the whole range of their type: a quantiser scaled them, and the scales are gone."""
    assert facts.checkpoint is not None
    names = [name for name in unscaled_by_choice(facts.checkpoint) if name in seen]
    stretched = tuple(sorted(name for name in names if (seen[name].std or 0.0) > LARGEST_STD_OF_A_WEIGHT))
    if stretched:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(stretched)} 8-bit weights fill the range of their type, so they were scaled, and no scale is stored",
            expected="a `weight_scale_inv` or `weight_scale` beside each of them",
            found=folded(stretched),
            remedy=VALUES_REMEDY,
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
                f"apr stamp {shell_word(facts.path)} --set tie_word_embeddings=false -o OUT",
            )


GATE = Gate(ID, "values are finite and fit their roles", Stage.VALUES, _check)
