"""What INV-INIT-VALUES-001 says of matrices that hold numbers, and no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded
from apr.loading.fingerprints import LOST_SHARE
from apr.loading.implausible import Misread, has_absurd_width, has_equal_rows, hole_of, large_gap_of, misread_as
from apr.loading.roles import holds_experts
from apr.loading.values import TensorFacts


def matrix_findings(seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Every finding on one matrix by itself; those that end in zeros are spoken of elsewhere."""
    finite = [value for value in seen.values() if not value.non_finite_count]
    yield from _holes(finite)
    equal_rows = [value for value in finite if has_equal_rows(value)]
    if equal_rows:
        yield _refusal(f"{len(equal_rows)} matrices have the same row everywhere", "rows of their own", equal_rows)
    misread = {value.entry.name: misread_as(value) for value in finite}
    for kind in Misread:
        wrong = [value for value in finite if misread[value.entry.name] is kind]
        if wrong:
            yield _refusal(
                f"{len(wrong)} matrices hold {kind.value}: read the other way they look like weights, and as they are "
                "stored they do not",
                "numbers of the type that the file states",
                wrong,
            )
    absurd = [value for value in finite if has_absurd_width(value) and not misread[value.entry.name]]
    if absurd:
        widths = sorted(value.root_mean_square or 0.0 for value in absurd)
        span = f"{widths[0]:.2g}" + (f" to {widths[-1]:.2g}" if len(widths) > 1 else "")
        yield _refusal(
            f"{len(absurd)} matrices have values of a size that no weights have (root mean square {span})",
            "a root mean square as weights have it, 1e-4 to 10",
            absurd,
        )


def _holes(finite: Iterable[TensorFacts]) -> Iterable[Finding]:
    others = [each for each in finite if each.trailing_zero_bytes < LOST_SHARE * each.entry.size_bytes]
    holes = {each.entry.name: (each, run) for each in others if (run := hole_of(each)) is not None}
    experts = [each for each, run in holes.values() if holds_experts(each.entry) and run.share == 1]
    rest = [(each, run) for each, run in holes.values() if each not in experts]
    if experts:
        yield _refusal(
            f"{len(experts)} matrices hold an expert that is zero everywhere", "trained values in every expert", experts
        )
    if rest:
        widest = max(run.share for _, run in rest)
        yield _refusal(
            f"{len(rest)} matrices are zero over one long stretch (up to {widest:.0%} of them), as a part that was "
            "never written leaves them",
            "trained values from the first row to the last",
            [each for each, _ in rest],
        )
    gaps = [each for each in others if large_gap_of(each) is not None]
    if gaps:
        names = folded(tuple(sorted(each.entry.name for each in gaps)))
        yield Finding(
            VALUES_ID,
            Status.UNCHECKED,
            f"{len(gaps)} matrices are zero in half of their rows or more, all in one stretch: pruned heads look so, "
            f"and so does a part that was never written ({names})",
        )


def _refusal(message: str, expected: str, values: Iterable[TensorFacts]) -> Finding:
    names = tuple(sorted(value.entry.name for value in values))
    return Finding(VALUES_ID, Status.REFUSE, message, expected, folded(names), VALUES_REMEDY)
