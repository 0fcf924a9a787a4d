"""Figures that tell a healthy corpus from one that lost its text on the way to ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def unigram_entropy_bits(counts: numpy.ndarray) -> float:
    """Shannon entropy in bits per token of the id distribution `counts` (occurrences per id); 0.0 without tokens.

    Text in a trained vocabulary has 7 to 11 bits, raw bytes of English about 4.5, a corpus of one id 0.
    """
    import numpy

    total = int(counts.sum())
    if total == 0:
        return 0.0
    shares = counts[counts > 0] / total
    return abs(float((shares * numpy.log2(shares)).sum()))
