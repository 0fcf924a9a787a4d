"""INV-INIT-VALUES-001: values are finite, and not empty, all-zero or constant where the role forbids it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.formats.dtypes import ENCODINGS
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded, repair_commands
from apr.identity.types import Naming
from apr.loading.fingerprints import (
    NORMS_OF_EITHER_KIND,
    NORMS_THAT_ADD_ONE,
    Freshness,
    GainCentre,
    fresh_among_trained,
    freshness,
    gain_centre,
    lost_endings,
)
from apr.loading.ledger import Rule
from apr.loading.plan import counted_names
from apr.loading.roles import Role, across_layers, role_of
from apr.loading.scales import unscaled_by_choice
from apr.loading.values import TensorFacts

ID = "INV-INIT-VALUES-001"
# Weights of language models have a width of 0.005 to 0.5; a quantiser stretches them to the type's range (448, 57344).
LARGEST_STD_OF_A_WEIGHT = 4.0
REMEDY = "the producer wrote these values; get another copy, or find the save that lost them (docs/failure-modes.md)"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.values is None or facts.plan is None:
        yield Finding(ID, Status.UNCHECKED, "the values were not read")
        return
    # A plan that does not balance is refused already; then every tensor is looked at, so that all is said at once.
    judged = counted_names(facts.checkpoint, facts.plan) if facts.checkpoint is not None else frozenset()
    seen = {name: value for name, value in facts.values.items() if name in judged}
    findings = [
        *_forbidden(seen),
        *_lost_endings(seen),
        *_fresh_among_trained(seen),
        *_fresh_matrices(facts, seen),
        *_other_convention(facts, seen),
        *_dropped_scales(facts, seen),
        *_unequal_ties(facts),
    ]
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


def _lost_endings(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    lost = sorted(each.entry.name for each in lost_endings(seen.values()))
    if lost:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(lost)} matrices end in nothing but zeros, as a copy that stopped early leaves them",
            expected="trained values to the last row",
            found=folded(tuple(lost)),
            remedy=REMEDY,
        )


def _fresh_matrices(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Matrices still as a normal initialisation drew them while the rest of the model is trained.

    A model that is fresh as a whole tells no lie; the loss gate speaks for it.
    """
    initial = facts.config.values.get("initializer_range") if facts.config is not None else None
    if not isinstance(initial, float) or not initial > 0:
        return
    judged = {
        name: freshness(value, initial)
        for name, value in seen.items()
        if role_of(value.entry) is Role.MATRIX and ENCODINGS[value.entry.dtype].is_float
    }
    fresh = fresh_among_trained(judged)
    if fresh:
        trained = sum(answer is Freshness.TRAINED for answer in judged.values())
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(fresh)} matrices are as a fresh initialisation draws them (normal, width {initial:g}) while "
            f"{trained} others are trained",
            expected="trained values in every matrix",
            found=folded(fresh),
            remedy=REMEDY,
        )


def _other_convention(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Norm gains that show the other convention than the claimed class computes with: x * w, or x * (1 + w)."""
    assert facts.plan is not None
    claimed = facts.plan.target.architecture
    if claimed.naming is Naming.GGUF:
        return  # The converter of llama.cpp adds the one, so that every gain lies around one.
    adds_one = claimed.model_type in NORMS_THAT_ADD_ONE
    centre = gain_centre(seen)
    if centre is None or (centre is GainCentre.ZERO) == adds_one or claimed.model_type in NORMS_OF_EITHER_KIND:
        return
    candidates = facts.verdict.evidence.candidates if facts.verdict is not None else ()
    twins = [
        each.architecture
        for each in candidates
        if each.architecture.model_type not in NORMS_OF_EITHER_KIND
        and (each.architecture.model_type in NORMS_THAT_ADD_ONE) != adds_one
    ]
    if not twins:
        return
    own, other = ("x * (1 + w)", "x * w") if adds_one else ("x * w", "x * (1 + w)")
    yield Finding(
        ID,
        Status.REFUSE,
        f"the norm gains lie around {centre.value}, as {twins[0]} has them, which computes {other}; "
        f"{claimed} computes {own} and would scale every layer wrongly",
        expected=f"norm gains around {int(not adds_one)}",
        found=f"norm gains around {centre.value}",
        remedy=repair_commands(facts, twins[0]),
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
