"""The quality score of `apr inspect --quality`: five parts, 100 points, paid for truth and not for presence.

Parts, maxima and the threshold are those of the founding project (`docs/format-apr2.md`, "Quality score"), so that
an honest file scores the same with both tools. What differs: a claim that the tensors contradict pays nothing for
identity, caps the total and is never ship-ready; placeholders pay nothing; a tokenizer must be usable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from apr.errors import AprError, RefusedError, shortened
from apr.formats.base import Checkpoint, Format, Stamp
from apr.identity.types import Verdict, VerdictKind
from apr.quality.facts import dimensions, dimensions_shown, identity_stamps, model_rows, text_stamp
from apr.quality.tokenizer import recorded_tokenizer
from apr.stamping.licenses import MODEL_LICENSE_WORDS, canonical_license, is_placeholder

SHIP_THRESHOLD = 90
CONTRADICTION_CAP = 40
PART_MAXIMA = {"physics": 20, "structural": 20, "provenance": 25, "hf_identity": 20, "tokenizer": 15}
PROVENANCE_POINTS = {"license": 9, "data_source": 8, "data_license": 8}


class Item(NamedTuple):
    """One line of the score: points got of points possible, and why."""

    part: str
    name: str
    points: int
    maximum: int
    reason: str


class QualityScore(NamedTuple):
    """The score with every line that led to it. `cap` is the ceiling that a contradiction sets, None without one."""

    items: tuple[Item, ...]
    cap: int | None

    @property
    def breakdown(self) -> dict[str, int]:
        return {part: sum(item.points for item in self.items if item.part == part) for part in PART_MAXIMA}

    @property
    def score(self) -> int:
        total = sum(item.points for item in self.items)
        return total if self.cap is None else min(total, self.cap)

    @property
    def is_ship_ready(self) -> bool:
        return self.cap is None and self.score >= SHIP_THRESHOLD

    def to_json(self) -> dict[str, Any]:
        """`score`, `ship_ready`, `threshold`, `breakdown` as the founding project writes them; then our reasons."""
        return {
            "score": self.score,
            "ship_ready": self.is_ship_ready,
            "threshold": SHIP_THRESHOLD,
            "breakdown": self.breakdown,
            "cap": self.cap,
            "items": [
                {"part": item.part, "name": item.name, "points": item.points, "maximum": item.maximum}
                | {"reason": item.reason}
                for item in self.items
            ],
        }


def quality_score(checkpoint: Checkpoint, verdict: Verdict, deep: bool = False) -> QualityScore:
    """The score of `checkpoint`, whose identity was judged as `verdict`. `deep` lets physics read every byte."""
    items = (
        _physics(checkpoint, deep),
        *_structural(checkpoint, verdict),
        *_provenance(checkpoint),
        *_hf_identity(checkpoint, verdict),
        _tokenizer(checkpoint, verdict),
    )
    return QualityScore(items, CONTRADICTION_CAP if _is_contradicted(verdict) else None)


def _is_contradicted(verdict: Verdict) -> bool:
    """Whether the tensors, or other stamps of the same file, contradict what a stamp says."""
    return verdict.kind is VerdictKind.CONTRADICTION or bool(verdict.claim.disagreements)


def _physics(checkpoint: Checkpoint, deep: bool) -> Item:
    reason = _damage(checkpoint, deep)
    intact = "every byte was read and agrees" if deep else "headers are consistent (--deep reads every byte)"
    return _item("physics", "intact", 20, reason is None, intact, reason)


def _damage(checkpoint: Checkpoint, deep: bool) -> str | None:
    if checkpoint.contradictions:
        return checkpoint.contradictions[0].what
    if not deep:
        return None
    from apr.loading.values import read_values

    try:
        for problem in checkpoint.verify_checksums():
            return f"{problem.what} ({problem.where})"
        facts = read_values(checkpoint.tensors.values())
    except AprError as error:
        return error.what
    for name, fact in sorted(facts.items()):
        if fact.non_finite_count:
            return f"{name} holds {fact.non_finite_count:,} values that are not finite"
        recorded = checkpoint.recorded.tensor_digests.get(name)
        if recorded is not None and recorded != fact.blake3_hex:
            return f"{name} is not the tensor whose digest was recorded"
    return None


def _structural(checkpoint: Checkpoint, verdict: Verdict) -> Iterator[Item]:
    stamp = identity_stamps(checkpoint).architecture
    known = stamp is not None and _is_known(stamp, verdict)
    value = "" if stamp is None else stamp.value
    absent = "no architecture is claimed" if stamp is None else f"{value} is not a known architecture"
    yield _item("structural", "architecture", 5, known, f"{value} is claimed", absent)
    stated = dimensions(checkpoint)
    shown = dimensions_shown(verdict)
    for name in ("hidden_size", "num_layers", "num_heads"):
        dimension = stated.get(name)
        if dimension is None:
            yield _item("structural", name, 5, False, "", "not stated")
            continue
        in_tensors = shown.get(dimension.written_as, shown.get(name, dimension.value))
        yield _item(
            "structural",
            name,
            5,
            in_tensors == dimension.value,
            f"{dimension.value}",
            f"{dimension.value} is stated, the tensors show {in_tensors}",
        )


def _provenance(checkpoint: Checkpoint) -> Iterator[Item]:
    for name, maximum in PROVENANCE_POINTS.items():
        text = text_stamp(checkpoint, name)
        if text is None:
            yield _item("provenance", name, maximum, False, "", "not stated")
            continue
        problem = _placeholder_problem(text) if name == "data_source" else _license_problem(text)
        yield _item("provenance", name, maximum, problem is None, shortened(text, 2000), problem)


def _placeholder_problem(text: str) -> str | None:
    return f"{shortened(repr(text), 200)} is a placeholder" if is_placeholder(text) else None


def _license_problem(text: str) -> str | None:
    if text.strip().lower() in MODEL_LICENSE_WORDS:
        return None
    try:
        canonical_license(text, option="license")
    except RefusedError as error:
        return f"{error.what}: {error.found}"
    return None


def _hf_identity(checkpoint: Checkpoint, verdict: Verdict) -> Iterator[Item]:
    stamps = identity_stamps(checkpoint)
    for name, maximum, stamp in (
        ("hf_architecture", 12, stamps.hf_architecture),
        ("hf_model_type", 8, stamps.hf_model_type),
    ):
        problem = _identity_problem(stamp, verdict)
        yield _item("hf_identity", name, maximum, problem is None, "" if stamp is None else stamp.value, problem)


def _identity_problem(stamp: Stamp | None, verdict: Verdict) -> str | None:
    if stamp is None:
        return "not stamped"
    if _is_contradicted(verdict):
        is_by_tensors = verdict.kind is VerdictKind.CONTRADICTION
        return f"{stamp.value}: {'the tensors contradict' if is_by_tensors else 'another stamp contradicts'} the claim"
    if not _is_known(stamp, verdict):
        return f"{stamp.value} is not a known architecture"
    if verdict.kind is VerdictKind.UNKNOWN:
        return f"{stamp.value}: the tensors do not confirm it"
    return None


def _is_known(stamp: Stamp, verdict: Verdict) -> bool:
    return any(read == stamp and meanings for read, meanings in verdict.claim.readings)


def _tokenizer(checkpoint: Checkpoint, verdict: Verdict) -> Item:
    problem = recorded_tokenizer(checkpoint, model_rows(checkpoint, verdict)).problem
    if problem is None and not _announces_tokenizer(checkpoint):
        problem = "the HAS_VOCAB flag is not set, so other readers do not see the tokenizer (apr stamp --tokenizer DIR)"
    return _item("tokenizer", "usable", 15, problem is None, "the tokenizer parses and fits the embedding", problem)


def _announces_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether readers that look at the header flag alone, as the founding project does, would find the tokenizer."""
    from apr.formats.apr2.layout import HEADER_BYTES, Flags, unpack_header

    if checkpoint.format is not Format.APR2:
        return True
    return bool(unpack_header(checkpoint.files[0].read_at(0, HEADER_BYTES)).flags & Flags.HAS_VOCAB)


def _item(part: str, name: str, maximum: int, is_earned: bool, reason: str, problem: str | None) -> Item:
    return Item(part, name, maximum if is_earned else 0, maximum, reason if is_earned else problem or "")
