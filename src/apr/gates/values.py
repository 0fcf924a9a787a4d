"""INV-INIT-VALUES-001: values are finite, and not empty, all-zero or constant where the role forbids it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from apr.formats.dtypes import ENCODINGS, DType
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.tie_values import unequal_ties
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded, vocabulary_size
from apr.loading.plan import counted_names
from apr.loading.scales import unscaled_by_choice

if TYPE_CHECKING:
    from apr.loading.values import TensorFacts

ID = VALUES_ID
# Weights of language models have a width of 0.005 to 0.5; a quantiser stretches them to the type's range (448, 57344).
LARGEST_STD_OF_A_WEIGHT = 4.0
# Weights are packed into them as well, but no check can tell those from zero points, of which all may be equal.
INDICES = frozenset({DType.I16, DType.I32, DType.I64, DType.U16, DType.U32, DType.U64})


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.values is None or facts.checkpoint is None:
        yield Finding(ID, Status.UNCHECKED, "the values were not read")
        return
    # Here, as what reads headers only has no use for them.
    from apr.gates.layer_values import layer_findings
    from apr.gates.matrix_values import matrix_findings
    from apr.gates.role_values import role_findings

    # A plan that does not balance is refused already; then every tensor is looked at, so that all is said at once.
    judged = counted_names(facts.checkpoint, facts.plan)
    seen = {name: value for name, value in facts.values.items() if name in judged}
    excused = sorted(seen.keys() & facts.allowed_tensors.keys())
    seen = {name: value for name, value in seen.items() if name not in facts.allowed_tensors}
    bound = _held_to_a_role(facts, seen)
    findings = [
        *role_findings(bound, is_planned=facts.plan is not None),
        *_lost_endings(facts, bound),
        *matrix_findings(bound),
        *layer_findings(facts, bound),
        *_dropped_scales(facts, seen),
        *_of_the_class(facts, seen),
    ]
    yield from findings
    if not any(finding.status is Status.REFUSE for finding in findings):
        if excused:
            message = f"values let through by name, and not judged: {folded(tuple(excused))}"
            yield Finding(ID, Status.UNCHECKED, message)
        yield from _all_is_well(seen)


def _all_is_well(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    unknown = sorted(value.entry.dtype for value in seen.values() if not value.has_known_values)
    if unknown:
        kinds = ", ".join(dict.fromkeys(unknown))
        message = f"{len(unknown)} tensors were read as bytes only: what the blocks of {kinds} hold is not known"
        yield Finding(ID, Status.UNCHECKED, message)
    blocks = sum(ENCODINGS[value.entry.dtype].is_quantized for value in seen.values()) - len(unknown)
    note = f"; of {blocks} quantised ones the scale and the codes of every block say so" if blocks else ""
    if len(seen) > len(unknown):
        count = len(seen) - len(unknown)
        yield Finding(ID, Status.PASS, f"{count} tensors hold finite values that fit their roles{note}")


def _of_the_class(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """What only the class that is loaded can tell: the convention of its norms, and which tensors it ties."""
    from apr.gates.norm_values import norm_findings

    if facts.plan is not None:
        yield from norm_findings(facts, seen)
        yield from unequal_ties(facts)
        return
    yield Finding(
        ID,
        Status.UNCHECKED,
        f"norm gains and ties were not held against the class: {facts.plan_note or 'there is no load plan'}",
    )


def _held_to_a_role(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> dict[str, TensorFacts]:
    """Those of `seen` whose values their role decides: no buffer with finite values (a mask,
    a counter), and none of the kinds that may hold any value."""
    return {
        name: value
        for name, value in seen.items()
        if (name not in facts.buffer_names or value.non_finite_count or not value.entry.element_count)
        and not _may_hold_anything(value)
    }


def _may_hold_anything(value: TensorFacts) -> bool:
    """A mask, indices or zero points of one value."""
    is_one_value = value.is_constant and value.entry.element_count > 0
    if is_one_value and not value.is_all_zero and value.entry.dtype in INDICES:
        return True
    return is_one_value and value.entry.dtype is DType.BOOL


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


GATE = Gate(ID, "values are finite and fit their roles", Stage.VALUES, _check)
