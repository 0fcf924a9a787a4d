"""Integrity of one checkpoint, every byte read: the checks of `apr validate`, each with what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apr.formats.base import Checkpoint, IntegrityProblem
from apr.formats.dtypes import ENCODINGS

if TYPE_CHECKING:
    from apr.loading.values import TensorFacts

NAMES_SHOWN = 5


class CheckStatus(StrEnum):
    """WARN counts as a failure only where the caller is strict. SKIP: nothing to hold the file against."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One check with its outcome. is_content: about the values, not about the file that carries them."""

    id: str
    name: str
    status: CheckStatus
    detail: str
    is_content: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "status": self.status.value, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Validation:
    """All checks of one checkpoint, in table order, with the totals that stand in the JSON answer."""

    checks: tuple[Check, ...]
    nan_count: int
    inf_count: int
    all_zero_tensors: tuple[str, ...]
    failed_tensors: tuple[str, ...]

    def failures(self, *, strict: bool) -> tuple[Check, ...]:
        failing = {CheckStatus.FAIL, CheckStatus.WARN} if strict else {CheckStatus.FAIL}
        return tuple(check for check in self.checks if check.status in failing)

    def is_damaged(self) -> bool:
        """Whether the file contradicts itself, so that its values say nothing."""
        return any(check.status is CheckStatus.FAIL and not check.is_content for check in self.checks)


def validate_checkpoint(checkpoint: Checkpoint) -> Validation:
    """Read every byte of `checkpoint` and check structure, checksums, recorded digests and values.

    Raises InputOutputError when the bytes cannot be read, DamagedFileError when the file shrinks meanwhile.
    """
    from apr.loading.values import read_values

    structure = checkpoint.contradictions
    if structure:
        checks = (_outcome("structure", "headers, extents and sizes agree", structure, ""), *_skipped())
        return Validation(checks, 0, 0, (), ())
    facts = read_values(entry for entry in checkpoint.tensors.values() if not entry.is_placeholder)
    damage = checkpoint.verify_checksums({name: fact.sums for name, fact in facts.items()})
    not_finite = tuple(sorted(name for name, fact in facts.items() if fact.non_finite_count))
    all_zero = tuple(sorted(name for name, fact in facts.items() if fact.is_all_zero))
    nan_count, inf_count = _count_non_finite(checkpoint, not_finite)
    count = len(checkpoint.tensors)
    checks = (
        _outcome("structure", "headers, extents and sizes agree", (), f"{count} tensors inside the file, no overlap"),
        _outcome("checksums", "recorded checksums and digests are right", damage, _sums_of(checkpoint)),
        _weights_digest_check(checkpoint, facts),
        _finite_check(facts, not_finite, nan_count, inf_count),
        *_empty_checks(checkpoint, facts, all_zero),
    )
    return Validation(checks, nan_count, inf_count, all_zero, not_finite)


def _skipped() -> Iterator[Check]:
    for id, name in _AFTER_STRUCTURE.items():
        yield Check(id, name, CheckStatus.SKIP, "not read: the structure is damaged", id in _CONTENT)


_AFTER_STRUCTURE = {
    "checksums": "recorded checksums and digests are right",
    "weights-digest": "the recorded weights digest is that of the bytes",
    "finite": "no value is NaN or infinite",
    "all-zero": "no weight matrix is all zero",
    "constant": "no weight matrix is constant",
}
_CONTENT = frozenset({"finite", "all-zero", "constant"})


def _outcome(id: str, name: str, problems: Iterable[IntegrityProblem], passed: str) -> Check:
    lines = [f"{each.what} ({each.where}): expected {each.expected}, found {each.found}" for each in problems]
    if lines:
        return Check(id, name, CheckStatus.FAIL, "; ".join(lines))
    return Check(id, name, CheckStatus.PASS, passed)


def _sums_of(checkpoint: Checkpoint) -> str:
    count = len(checkpoint.recorded.tensor_digests)
    return (
        f"{count} tensor digests and the file's own checksums" if count else "the file's own checksums, if it has any"
    )


def _weights_digest_check(checkpoint: Checkpoint, facts: Mapping[str, TensorFacts]) -> Check:
    from apr.gates.road import examine_opened
    from apr.loading.digest import weights_digest
    from apr.loading.plan import counted_names

    id, name = "weights-digest", _AFTER_STRUCTURE["weights-digest"]
    counted = counted_names(checkpoint, examine_opened(checkpoint).facts.plan)
    computed = weights_digest(facts[name].digest for name in counted)
    recorded = checkpoint.recorded.weights_digest
    if recorded is None:
        return Check(id, name, CheckStatus.SKIP, f"none is recorded; the bytes give {computed}")
    if recorded != computed:
        return Check(id, name, CheckStatus.FAIL, f"expected {recorded} as recorded, found {computed}")
    return Check(id, name, CheckStatus.PASS, computed)


def _count_non_finite(checkpoint: Checkpoint, names: Iterable[str]) -> tuple[int, int]:
    from apr.quality.statistics import tensor_statistics

    found = [tensor_statistics(checkpoint.tensors[name]) for name in names]
    return sum(each.nan_count for each in found), sum(each.inf_count for each in found)


def _finite_check(facts: Mapping[str, TensorFacts], names: tuple[str, ...], nan_count: int, inf_count: int) -> Check:
    id, name = "finite", _AFTER_STRUCTURE["finite"]
    if names:
        count = sum(facts[each].non_finite_count for each in names)
        # Decoding takes scales that are not finite for zero in some block types, and is not known of others.
        counts = (
            f"{nan_count:,} NaN and {inf_count:,} infinite" if nan_count or inf_count else f"{count:,} NaN or infinite"
        )
        blocks = sum(ENCODINGS[facts[each].entry.dtype].is_quantized for each in names)
        why = f"; in {blocks} of them the scales of quantised blocks are not finite" if blocks else ""
        return Check(id, name, CheckStatus.FAIL, f"{counts} values in {_listed(names)}{why}", is_content=True)
    blocks = sum(ENCODINGS[each.entry.dtype].is_quantized and each.has_known_values for each in facts.values())
    rest = f"; of {blocks} quantised tensors the scales of all blocks were looked at, which decide it" if blocks else ""
    return Check(id, name, CheckStatus.PASS, f"all values are finite{rest}{_not_looked_at(facts)}", is_content=True)


def _not_looked_at(facts: Mapping[str, TensorFacts]) -> str:
    unknown = sorted(each.entry.dtype for each in facts.values() if not each.has_known_values)
    kinds = ", ".join(dict.fromkeys(unknown))
    return f"; {len(unknown)} tensors were read as bytes only, not for their values ({kinds})" if unknown else ""


def _empty_checks(
    checkpoint: Checkpoint, facts: Mapping[str, TensorFacts], all_zero: tuple[str, ...]
) -> Iterator[Check]:
    """Matrices only: a bias of zeros or a norm gain of ones is how healthy models start, and may stay."""
    matrices = {name for name, entry in checkpoint.tensors.items() if len(entry.shape) >= 2 and entry.element_count > 1}
    zero = tuple(name for name in all_zero if name in matrices)
    constant = tuple(
        sorted(name for name, fact in facts.items() if name in matrices and fact.is_constant and not fact.is_all_zero)
    )
    decoded = sum(not ENCODINGS[checkpoint.tensors[name].dtype].is_quantized for name in matrices)
    not_decoded = f"; {len(matrices) - decoded} quantised ones were not decoded" if decoded < len(matrices) else ""
    passed = {
        "all-zero": f"{len(matrices)} matrices{_not_looked_at(facts)}",
        "constant": f"{decoded} matrices{not_decoded}",
    }
    for id, names in (("all-zero", zero), ("constant", constant)):
        status = CheckStatus.WARN if names else CheckStatus.PASS
        detail = _listed(names) if names else passed[id]
        yield Check(id, _AFTER_STRUCTURE[id], status, detail, is_content=True)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
