"""The cross matrix at 8 x 8: config of one family over weights of another, ours against behaviour."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cross_matrix


@pytest.mark.slow
def test_nothing_goes_on_silently_wrong_and_nothing_healthy_is_refused(tmp_path):
    result = cross_matrix.run(cross_matrix.SMALL, tmp_path)
    assert result.families == list(cross_matrix.SMALL)
    assert {(name, name) for name in result.families} <= set(result.right_pairs)
    probe = result.scores["ours, probe"]
    assert (probe.silent_wrong, probe.false_refusals) == ([], [])
    assert cross_matrix.blind_matches(result) == []
    # The judges beside ours are not straw men: each lets some pair through, and is right about some.
    for judge in cross_matrix.JUDGES[:3]:
        assert 0 < len(result.scores[judge].silent_wrong) < len(result.verdicts)
