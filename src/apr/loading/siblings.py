"""Tensors that belong together, held against each other: biases left at zero, matrices copied to another place.

As in `fingerprints.py`, a rule says nothing where a healthy file could look the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from apr.formats.dtypes import ENCODINGS
from apr.loading.roles import Role, across_layers, is_projection, role_of
from apr.loading.values import TensorFacts

FEWEST_SIBLINGS = 4
# At most this part of the siblings may stand out; more of them are a choice of the producer (frozen layers, say).
LARGEST_SHARE = 0.25
# A copy of one matrix among many; more of them are a layer taken twice (depth up-scaling, then adapters).
LARGEST_COPIED_SHARE = 0.25
FEWEST_ELEMENTS = 64
# Projections of one block that read the same input, or stand for different steps of it. Names of the zoo's classes and
# of llama.cpp.
PROJECTIONS_OF_ONE_BLOCK = (
    frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "out_proj"}),
    frozenset({"query", "key", "value"}),
    frozenset({"query_proj", "key_proj", "value_proj"}),
    frozenset({"q", "k", "v", "o"}),
    frozenset({"q_lin", "k_lin", "v_lin", "out_lin"}),
    frozenset({"wq", "wk", "wv", "wo"}),
    frozenset({"gate_proj", "up_proj"}),
    frozenset({"w1", "w3"}),
    frozenset({"wi_0", "wi_1"}),
    frozenset({"attn_q", "attn_k", "attn_v", "attn_output"}),
    frozenset({"ffn_gate", "ffn_up"}),
)
PLACES_IN_A_BLOCK = {
    own: tuple(place for place, names in enumerate(PROJECTIONS_OF_ONE_BLOCK) if own in names)
    for own in frozenset().union(*PROJECTIONS_OF_ONE_BLOCK)
}
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class CopiedLayers(NamedTuple):
    """Two layers with byte-equal matrices. names: those of the second layer; matrices: how many they have."""

    first: int
    second: int
    names: tuple[str, ...]
    matrices: int

    @property
    def is_one_slip(self) -> bool:
        """Whether so few are equal that no way of building a model explains it."""
        return len(self.names) <= LARGEST_COPIED_SHARE * self.matrices


class EqualProjections(NamedTuple):
    """Two projections of one block with the same bytes. is_everywhere: whether all such blocks have them equal."""

    first: str
    second: str
    is_everywhere: bool


def equal_projections(values: Mapping[str, TensorFacts]) -> tuple[EqualProjections, ...]:
    """Projections of one block that are byte-equal, as query and key, or gate and up, never come to be by training.

    Experts apart. A matrix whose values have all one size (the identity, say) is put there by hand.
    """
    blocks: dict[tuple[str, int], list[str]] = {}
    for name, seen in values.items():
        block, _, own = name.rpartition(".")[0].rpartition(".")
        places = PLACES_IN_A_BLOCK.get(own, ())
        if places and "expert" not in name and is_projection(seen.entry):
            for place in places:
                blocks.setdefault((block, place), []).append(name)
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for members in blocks.values():
        for first, second in combinations(sorted(members), 2):
            groups.setdefault((across_layers(first), across_layers(second)), []).append((first, second))
    found: list[EqualProjections] = []
    for pairs in groups.values():
        equal = [pair for pair in pairs if _are_equal(values[pair[0]], values[pair[1]])]
        found += [EqualProjections(first, second, len(equal) == len(pairs)) for first, second in equal]
    return tuple(sorted(found))


def _are_equal(first: TensorFacts, second: TensorFacts) -> bool:
    """Whether two tensors hold the same bytes, and bytes that no rule puts there."""
    if first.blake3_hex != second.blake3_hex or first.entry.shape != second.entry.shape or first.magnitudes is None:
        return False
    return first.magnitudes[2] > first.magnitudes[0]


def zero_biases_among_trained(values: Mapping[str, TensorFacts]) -> tuple[str, ...]:
    """Biases that are zero everywhere while the same bias of at least three times as many layers is not.

    Experts apart: one that is never chosen keeps the bias it began with.
    """
    groups: dict[str, list[TensorFacts]] = {}
    for name, seen in values.items():
        if name.endswith("bias") and "expert" not in name and ENCODINGS[seen.entry.dtype].is_float:
            groups.setdefault(across_layers(name), []).append(seen)
    found: list[str] = []
    for members in groups.values():
        zero = [seen.entry.name for seen in members if seen.is_all_zero]
        others = [seen for seen in members if not seen.is_all_zero]
        if len(members) >= FEWEST_SIBLINGS and len(zero) <= LARGEST_SHARE * len(members):
            found += zero if not any(seen.is_constant for seen in others) else []
    return tuple(sorted(found))


def copied_layers(values: Iterable[TensorFacts]) -> tuple[CopiedLayers, ...]:
    """Pairs of layers that share matrices byte for byte, where the same matrix of most layers is its own.

    A matrix that most layers have alike is made so (a state matrix at its start) and proves nothing.
    """
    rows: dict[str, dict[int, TensorFacts]] = {}
    for seen in values:
        layer = _LAYER.search(seen.entry.name)
        if layer and role_of(seen.entry) is Role.MATRIX and seen.entry.element_count >= FEWEST_ELEMENTS:
            rows.setdefault(_LAYER.sub("{}", seen.entry.name, count=1), {})[int(layer[0])] = seen
    shared: dict[tuple[int, int], list[str]] = {}
    for members in rows.values():
        by_bytes: dict[str, list[int]] = {}
        for layer_number, seen in members.items():
            if not seen.is_constant:
                by_bytes.setdefault(seen.blake3_hex, []).append(layer_number)
        for layers in by_bytes.values():
            if 1 < len(layers) <= max(2, len(members) // 2) and len(layers) < len(members):
                for first, second in combinations(sorted(layers), 2):
                    shared.setdefault((first, second), []).append(members[second].entry.name)
    return tuple(
        CopiedLayers(first, second, tuple(names), sum(first in each and second in each for each in rows.values()))
        for (first, second), names in sorted(shared.items())
    )
