"""What value statistics can prove of a healthy model: fresh initialisation, lost endings, copies among layers.

Every rule here must never refuse a healthy file. So each asks for several independent signs at once, and says nothing
where they do not all point the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum

from apr.formats.base import TensorEntry
from apr.loading.initial_draws import InitialDraw
from apr.loading.roles import Role, across_layers, is_table_of_tokens, role_of
from apr.loading.values import TensorFacts

FEWEST_VALUES = 2048
# A sampling error beyond this many standard errors is no sampling error.
STANDARD_ERRORS = 5.0
# Training leaves heavy tails and uneven rows. No usual initialisation does: a uniform draw has light tails, a scaled
# normal one even rows, so width alone proves nothing.
CLEAR_TAILS, CLEAR_ROWS = 0.5, 3.0
# A lost ending is at least this part of a matrix; pruned matrices have their zeros spread.
LOST_SHARE = 0.25
LOST_SHARE_OF_A_TABLE = 0.5
# A matrix pruned row by row or weight by weight has zeros beside every stretch; in small ones they may meet.
MOST_ZEROS_BESIDE = 0.25


class Freshness(Enum):
    """Whether a matrix is still what its initialisation drew: FRESH and TRAINED are both proven, else UNSURE."""

    FRESH = "fresh"
    TRAINED = "trained"
    UNSURE = "unsure"


def freshness(seen: TensorFacts, draw: InitialDraw) -> Freshness:
    """Hold a matrix against how its class draws it: width, centre, tails and the evenness of its rows."""
    count = seen.sampled_count
    if count < FEWEST_VALUES or seen.std is None or seen.mean is None or seen.excess_kurtosis is None or not seen.std:
        return Freshness.UNSURE
    columns = seen.entry.shape[-1]
    even_rows = math.sqrt((draw.kurtosis - 1) / columns)
    width = abs(seen.std / draw.width - 1)
    tails = seen.excess_kurtosis
    is_normal_draw = (
        # Rounding to bf16 widens by less than 0.1 %.
        width <= STANDARD_ERRORS * math.sqrt((draw.kurtosis - 1) / (4 * count)) + 1e-3
        and abs(seen.mean) <= STANDARD_ERRORS * draw.width / math.sqrt(count)
        and abs(tails - (draw.kurtosis - 3)) <= STANDARD_ERRORS * math.sqrt(24 / count)
        and (seen.row_spread is not None and seen.row_spread <= 1.5 * even_rows)
    )
    if is_normal_draw:
        return Freshness.FRESH
    has_uneven_rows = seen.row_spread is not None and seen.row_spread > CLEAR_ROWS * even_rows
    is_clear = has_uneven_rows or tails > max(CLEAR_TAILS, 4 * STANDARD_ERRORS * math.sqrt(24 / count))
    return Freshness.TRAINED if is_clear else Freshness.UNSURE


def fresh_among_trained(judged: Mapping[str, Freshness]) -> tuple[str, ...]:
    """Names of matrices proven fresh where their siblings are proven trained.

    Siblings are the same matrix of other layers: at most a quarter of at least four may be fresh, and all others have
    to be trained. A table of tokens has no siblings; there three quarters of all layers' matrices have to be trained,
    and none fresh. A model that is fresh as a whole is none of this.
    """
    groups: dict[str, list[str]] = {}
    for name in judged:
        groups.setdefault(across_layers(name), []).append(name)
    found: list[str] = []
    layered = [answer for group, names in groups.items() if "{}" in group for answer in map(judged.__getitem__, names)]
    is_trained = len(layered) >= 4 and layered.count(Freshness.TRAINED) >= 0.75 * len(layered)
    for group, names in groups.items():
        fresh = [name for name in names if judged[name] is Freshness.FRESH]
        if "{}" in group:
            others = [judged[name] for name in names if name not in fresh]
            if len(names) >= 4 and 4 * len(fresh) <= len(names) and set(others) == {Freshness.TRAINED}:
                found += fresh
        elif is_trained and Freshness.FRESH not in layered:
            found += fresh
    return tuple(sorted(found))


def lost_endings(
    values: Iterable[TensorFacts], rows: int | None = None, known_tokens: int | None = None
) -> list[TensorFacts]:
    """Matrices whose last quarter or more is nothing but zeros.

    A table with one row for each of `rows` token ids is padded with zeros for ids no tokenizer gives. There a quarter
    of the `known_tokens` rows has to be lost, or half of the table when no tokenizer is known. Other tables of tokens
    or positions are let be.
    """
    return [
        seen
        for seen in values
        if role_of(seen.entry) is Role.MATRIX
        and not seen.is_all_zero
        and seen.trailing_zero_bytes >= _fewest_lost_bytes(seen.entry, rows, known_tokens)
        and not _is_sparse(seen)
    ]


def _is_sparse(seen: TensorFacts) -> bool:
    """Whether a matrix has zeros before its last ones too, of which the last ones may be some."""
    return seen.zero_run is not None and seen.zero_run.zeros_beside > MOST_ZEROS_BESIDE


def _fewest_lost_bytes(entry: TensorEntry, rows: int | None, known_tokens: int | None) -> float:
    if not is_table_of_tokens(entry):
        return max(64, LOST_SHARE * entry.size_bytes)
    if rows is None or entry.shape[0] != rows:
        return math.inf
    if known_tokens is None or not 0 < known_tokens <= rows:
        return max(64, LOST_SHARE_OF_A_TABLE * entry.size_bytes)
    padding = 1 - known_tokens / rows
    return max(64, (padding + LOST_SHARE * (1 - padding)) * entry.size_bytes)
