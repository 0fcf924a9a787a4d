"""Values that no weights of a language model have: holes, rows that are all alike, absurd widths, halves misread.

As in `fingerprints.py`, a rule says nothing where a healthy file could look the same: pruned, fresh, padded, grown from
a smaller model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum

from apr.loading.fingerprints import LOST_SHARE, MOST_ZEROS_BESIDE
from apr.loading.roles import WIDE_FLOATS, Role, is_projection, is_table_of_tokens, role_of
from apr.loading.values import TensorFacts
from apr.loading.zero_runs import ZeroRun

# A stretch of zeros in the middle is lost where it breaks off inside a row, as no pruning of rows or heads does. Whole
# rows: all heads but one of a layer have been pruned in public; of more than this nothing is left to use.
HOLLOW_SHARE = 0.95
LARGE_GAP_SHARE = 0.5
SMALLEST_HOLE_BYTES = 64

# Root mean square. Weights have 1e-4 to 10, whatever their initialisation; tables of T5 reach some tens. What gets no
# gradient decays towards zero, so the lower bound is far below what any run decays to.
WIDEST_PROJECTION, WIDEST_TABLE = 1e3, 1e4
NARROWEST_WIDTH = 1e-12

# A normal distribution has 5.7 binades between the magnitudes that 1 % and 50 % stay below, and 1.9 from there to 99 %.
# Training widens both.
BINADES_BELOW, BINADES_ABOVE = (3.0, 10.0), (1.0, 4.0)
USUAL_MEDIAN = (1e-6, 4.0)
SIGNS = (0.25, 0.75)


class Misread(Enum):
    """16-bit numbers under the label of the other 16-bit type."""

    BF16_AS_F16 = "BF16 numbers read as F16"
    F16_AS_BF16 = "F16 numbers read as BF16"


def hole_of(seen: TensorFacts) -> ZeroRun | None:
    """The stretch of zeros that lost part of a projection, None where there is none or pruning may have left it."""
    run = _gap_of(seen)
    if run is None or run.share < (LOST_SHARE if run.cuts_a_row else HOLLOW_SHARE):
        return None
    return run if run.share == 1 or run.zeros_beside <= MOST_ZEROS_BESIDE else None


def large_gap_of(seen: TensorFacts) -> ZeroRun | None:
    """Half of a projection or more that is zero in whole rows, which pruning can explain and a lost part as well."""
    run = _gap_of(seen)
    return run if run is not None and run.share >= LARGE_GAP_SHARE and hole_of(seen) is None else None


def _gap_of(seen: TensorFacts) -> ZeroRun | None:
    if seen.zero_run is None or seen.is_all_zero or not is_projection(seen.entry):
        return None
    run = seen.zero_run
    size_bytes = (run.stop - run.start) * seen.entry.size_bytes // seen.entry.element_count
    return run if size_bytes >= SMALLEST_HOLE_BYTES else None


def has_equal_rows(seen: TensorFacts) -> bool:
    """Whether all rows of a projection are alike, so that it gives one number to every unit behind it."""
    return seen.has_equal_rows and not seen.is_constant and is_projection(seen.entry)


def has_absurd_width(seen: TensorFacts) -> bool:
    """Whether the values of a projection or a table are larger or smaller than those of any model by far.

    Experts apart, where they are small: one that is never chosen decays without end.
    """
    width = seen.root_mean_square
    if not width or NARROWEST_WIDTH <= width <= WIDEST_PROJECTION:
        return False
    is_table = seen.entry.dtype in WIDE_FLOATS and role_of(seen.entry) is Role.MATRIX and is_table_of_tokens(seen.entry)
    if not is_table and not is_projection(seen.entry):
        return False
    is_small = width < NARROWEST_WIDTH and "expert" not in seen.entry.name.lower()
    return is_small or width > (WIDEST_TABLE if is_table else WIDEST_PROJECTION)


def misread_as(seen: TensorFacts) -> Misread | None:
    """Whether the values become those of a model when their bits are read as the other 16-bit type.

    BF16 numbers have almost all of their exponent's high bits alike, which F16 takes for magnitudes of 0.5 to 2. F16
    numbers spread over thirty and more binades in BF16. Neither looks like weights, and the other reading does.
    """
    if seen.magnitudes is None or seen.negative_share is None or not SIGNS[0] < seen.negative_share < SIGNS[1]:
        return None
    low, middle, high = seen.magnitudes
    is_narrow = low >= 0.25 and 1.2 * low < high < 4
    is_spread = middle > 2.0**20 * low and high > 2.0**8 * middle
    if not (is_narrow or is_spread) or role_of(seen.entry) is not Role.MATRIX or seen.entry.dtype not in WIDE_FLOATS:
        return None
    if is_narrow and _looks_like_weights(map(_f16_as_bf16, seen.magnitudes)):
        return Misread.BF16_AS_F16
    is_small = (seen.root_mean_square or 0.0) < 1e-4 and high < 2.0**-7
    if is_spread and is_small and _looks_like_weights(map(_bf16_as_f16, seen.magnitudes)):
        return Misread.F16_AS_BF16
    return None


def _looks_like_weights(magnitudes: Iterable[float]) -> bool:
    low, middle, high = magnitudes
    if not (0 < low <= middle <= high < math.inf and USUAL_MEDIAN[0] < middle < USUAL_MEDIAN[1]):
        return False
    below, above = math.log2(middle / low), math.log2(high / middle)
    return BINADES_BELOW[0] < below < BINADES_BELOW[1] and BINADES_ABOVE[0] < above < BINADES_ABOVE[1]


def _f16_as_bf16(magnitude: float) -> float:
    import numpy as np

    return float((np.float16(magnitude).view(np.uint16).astype(np.uint32) << 16).view(np.float32))


def _bf16_as_f16(magnitude: float) -> float:
    import numpy as np

    return float((np.float32(magnitude).view(np.uint32) >> 16).astype(np.uint16).view(np.float16))
