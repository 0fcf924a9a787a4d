"""What INV-INIT-VALUES-001 says of tensors that hold nothing: no number, no element, one value everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.formats.dtypes import ENCODINGS
from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded
from apr.loading.roles import Role, across_layers, is_router, role_of
from apr.loading.values import TensorFacts

# The table that every model reads its tokens from; no class begins with one of zeros.
INPUT_TABLES = frozenset({"embed_tokens", "wte", "word_embeddings", "shared", "tok_embeddings", "embed_in"})


def role_findings(seen: Mapping[str, TensorFacts], *, is_planned: bool) -> Iterable[Finding]:
    """Every finding on a tensor that holds what its role forbids.

    is_planned: whether a plan tells which tensors are weights of a class whose matrices are drawn at random, routers
    apart. Without one, a matrix that all layers have at one value may be at the start its class gives it, unless most
    matrices are.
    """
    seen = seen if is_planned else _of_weights(seen)
    fixed = {name for name, value in seen.items() if _is_forbidden(value)}
    begun = _at_their_start(seen, fixed, is_planned=is_planned)
    judged = [seen[name] for name in sorted(fixed - begun)]
    rows = (
        ([each for each in seen.values() if each.non_finite_count], "hold NaN or infinite values", "finite values"),
        ([each for each in seen.values() if _is_empty(each, is_planned)], "hold no elements", "at least one element"),
        (
            [each for each in judged if each.is_all_zero],
            "are zero everywhere, which their role forbids",
            "trained values",
        ),
        (
            [each for each in judged if not each.is_all_zero],
            "hold one value everywhere, which their role forbids",
            "trained values",
        ),
    )
    for values, what, expected in rows:
        if values:
            names = tuple(sorted(value.entry.name for value in values))
            yield Finding(
                VALUES_ID, Status.REFUSE, f"{len(names)} tensors {what}", expected, folded(names), VALUES_REMEDY
            )
    if begun:
        yield Finding(
            VALUES_ID,
            Status.UNCHECKED,
            f"{len(begun)} tensors hold one value everywhere, and so does every tensor of their kind: some classes "
            f"begin so, and values that were lost look the same ({folded(tuple(sorted(begun)))})",
        )


def _is_forbidden(value: TensorFacts) -> bool:
    role = role_of(value.entry)
    return (value.is_all_zero and not role.may_be_zero) or (
        value.is_constant and not value.is_all_zero and not role.may_be_constant
    )


def _is_empty(value: TensorFacts, is_planned: bool) -> bool:
    """A save that did not gather leaves a flat tensor; a matrix with a width of zero is some class's own."""
    return value.entry.element_count == 0 and (is_planned or len(value.entry.shape) < 2)


def _at_their_start(seen: Mapping[str, TensorFacts], fixed: set[str], *, is_planned: bool) -> set[str]:
    """Those of `fixed` that may be as their class begins: all layers have them so."""
    groups: dict[str, list[str]] = {}
    for name, value in seen.items():
        if role_of(value.entry) is Role.MATRIX:
            groups.setdefault(across_layers(name), []).append(name)
    alike = [names for names in groups.values() if fixed.issuperset(names)]
    if is_planned:
        alike = [names for names in alike if is_router(seen[names[0]].entry) and "{}" in across_layers(names[0])]
    elif 2 * len(alike) > len(groups):
        return set()
    return {name for names in alike for name in names if not INPUT_TABLES & set(name.split("."))}


def _of_weights(seen: Mapping[str, TensorFacts]) -> dict[str, TensorFacts]:
    """Without a plan nobody knows what is a weight: codes of integers may hold one value, and masks infinity."""
    return {
        name: value
        for name, value in seen.items()
        if "mask" not in name.rpartition(".")[2]
        and (ENCODINGS[value.entry.dtype].is_float or ENCODINGS[value.entry.dtype].is_quantized)
    }
