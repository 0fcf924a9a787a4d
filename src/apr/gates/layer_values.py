"""What INV-INIT-VALUES-001 says of layers that differ from their siblings: fresh among trained, zero, copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.formats.dtypes import ENCODINGS
from apr.gates.facts import InitFacts
from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded
from apr.loading.fingerprints import Freshness, fresh_among_trained, freshness
from apr.loading.initial_draws import InitialDraw, initial_draws
from apr.loading.roles import Role, across_layers, role_of
from apr.loading.siblings import copied_layers, equal_projections, zero_biases_among_trained
from apr.loading.values import TensorFacts

COPIES_SHOWN = 4


def layer_findings(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Every finding on tensors that their siblings in other layers contradict."""
    yield from _fresh_gains(seen)
    yield from _zero_biases(seen)
    yield from _fresh_matrices(facts, seen)
    yield from _copies(facts, seen)
    yield from _equal_projections(seen)


def _fresh_gains(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Norm gains that are exactly 1 in some layers while the same gain was trained in most others."""
    groups: dict[str, list[TensorFacts]] = {}
    for name, value in seen.items():
        if role_of(value.entry) is Role.NORM_GAIN and ENCODINGS[value.entry.dtype].is_float:
            groups.setdefault(across_layers(name), []).append(value)
    for members in groups.values():
        fresh = [each.entry.name for each in members if each.is_constant and each.mean == 1.0]
        if fresh and len(fresh) * 2 < len(members):
            yield _refusal(
                f"{len(fresh)} norm gains are at their initial value while the same gain in other layers is trained",
                "trained values in every layer",
                tuple(sorted(fresh)),
            )


def _zero_biases(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    zero = zero_biases_among_trained(seen)
    if zero:
        yield _refusal(
            f"{len(zero)} biases are zero everywhere while the same bias in other layers is trained",
            "trained values in every layer, or zero in all",
            zero,
        )


def _fresh_matrices(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Matrices still as a normal initialisation drew them while the rest of the model is trained.

    A model that is fresh as a whole tells no lie; the loss gate speaks for it.
    """
    draws = initial_draws(facts.config.values) if facts.config is not None else ()
    if not draws:
        return
    judged = {
        name: _judged(value, draws)
        for name, value in seen.items()
        if role_of(value.entry) is Role.MATRIX and ENCODINGS[value.entry.dtype].is_float
    }
    fresh = fresh_among_trained(judged)
    if fresh:
        trained = sum(answer is Freshness.TRAINED for answer in judged.values())
        yield _refusal(
            f"{len(fresh)} matrices are as a fresh initialisation draws them (normal, width {draws[0].std:g}) while "
            f"{trained} others are trained",
            "trained values in every matrix",
            fresh,
        )


def _judged(value: TensorFacts, draws: tuple[InitialDraw, ...]) -> Freshness:
    answers = [freshness(value, draw) for draw in draws]
    return Freshness.FRESH if Freshness.FRESH in answers else answers[0]


def _copies(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Matrices with the bytes of another layer: one or two are a slip, a whole layer may be meant."""
    pairs = copied_layers(seen.values())
    slips = tuple(sorted({name for pair in pairs if pair.is_one_slip for name in pair.names}))
    if slips:
        yield _refusal(
            f"{len(slips)} matrices hold the bytes of the same matrix in another layer, while the rest of the two "
            "layers differs",
            "bytes of its own in every layer",
            slips,
        )
    whole = [pair for pair in pairs if not pair.is_one_slip]
    recorded = facts.checkpoint is not None and facts.checkpoint.recorded.tensor_digests
    if whole and not recorded:
        shown = ", ".join(f"{each.first} and {each.second}" for each in whole[:COPIES_SHOWN])
        more = f" and {len(whole) - COPIES_SHOWN} more pairs" if len(whole) > COPIES_SHOWN else ""
        yield Finding(
            VALUES_ID,
            Status.UNCHECKED,
            f"layers {shown}{more} share matrices byte for byte: depth up-scaling makes such layers, and so does a "
            "copy that went wrong; the file records no digests to tell",
        )


def _equal_projections(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Query and key, gate and up and their like with equal bytes: in some blocks a slip, in all of them a choice."""
    pairs = equal_projections(seen)
    slips = [pair for pair in pairs if not pair.is_everywhere]
    if slips:
        yield _refusal(
            f"{len(slips)} projections hold the bytes of another projection of the same block "
            f"({slips[0].second} those of {slips[0].first})",
            "bytes of its own in every projection",
            tuple(sorted({pair.second for pair in slips})),
        )
    chosen = sorted({(across_layers(pair.first), across_layers(pair.second)) for pair in pairs if pair.is_everywhere})
    if chosen:
        shown = "; ".join(f"{first} and {second}" for first, second in chosen[:COPIES_SHOWN])
        yield Finding(
            VALUES_ID,
            Status.UNCHECKED,
            f"projections of one block hold equal bytes wherever they stand ({shown}): a model can be built so, and a "
            "converter that writes one for the other leaves the same",
        )


def _refusal(message: str, expected: str, names: tuple[str, ...]) -> Finding:
    return Finding(VALUES_ID, Status.REFUSE, message, expected, folded(names), VALUES_REMEDY)
