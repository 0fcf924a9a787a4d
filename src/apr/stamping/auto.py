"""`--auto`: the identity that the tensors show, as far as they decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apr.errors import RefusedError, in_lines
from apr.formats.base import Checkpoint, Format
from apr.identity.claim import normalise, read_stamp
from apr.identity.types import Architecture, Claim, Naming
from apr.identity.verdict import SAME_COMPUTATION, give_verdict
from apr.stamping.truth import TRUTH_ID


class ShownIdentity(NamedTuple):
    """stamps: what the tensors decide, by field of StampChanges. notes: what they leave open.

    is_settled: whether they decide anything. option: the flag that names what they leave open.
    """

    stamps: Mapping[str, str]
    notes: tuple[str, ...]
    is_settled: bool
    option: str = "--hf-model-type TYPE"

    def refusal(self, path: Path) -> RefusedError:
        """The error when nothing can be stamped."""
        return RefusedError(
            "the tensors do not decide what this checkpoint is",
            where=str(path),
            expected="tensors that one known architecture explains",
            found=in_lines(*self.notes),
            remedy=f"add {self.option} for the one it is, if you know",
            invariant=TRUTH_ID,
        )


def shown_identity(checkpoint: Checkpoint, given: Mapping[str, str]) -> ShownIdentity:
    """The identity of `checkpoint` as its tensors show it; each stamp that every architecture they fit agrees on.

    given: identity stamps the user set, by field of StampChanges. They, and else the stamps that stand, choose among
    name twins, which tensors cannot tell apart.
    """
    verdict = give_verdict(checkpoint)
    candidates = [candidate.architecture for candidate in verdict.evidence.candidates]
    if not candidates:
        return ShownIdentity({}, verdict.evidence.reasons, is_settled=False)
    claimed = [each for each in candidates if each == verdict.claim.architecture]
    spoken_for = _named(candidates, given) or claimed or _standing(verdict.claim, candidates)
    chosen = spoken_for or _each_computation_once(candidates)
    notes = []
    if len(chosen) < len(candidates):
        others = ", ".join(str(each) for each in candidates if each not in chosen)
        by = "the stamps given choose" if _named(candidates, given) else "the stamps that stand were kept"
        if not spoken_for:
            by = "it computes the same, and the better known name is taken"
        notes.append(f"the tensors fit {others} as well; {by}")
    types = list(dict.fromkeys(each.model_type for each in chosen))
    classes = list(dict.fromkeys(each.class_name for each in chosen))
    stamps = {"architecture": types[0], "hf_model_type": types[0]} if len(types) == 1 else {}
    if len(classes) == 1:
        stamps["hf_architecture"] = classes[0]
    for what, names in (("model type", types), ("class", classes)):
        if len(names) > 1:
            notes.append(f"the tensors do not decide the {what}: {', '.join(names)}")
    if checkpoint.format is Format.HF_DIRECTORY:  # It has no key of that name.
        stamps.pop("architecture", None)
    if checkpoint.format is Format.GGUF:  # It has no other.
        stamps = {key: value for key, value in stamps.items() if key == "architecture"}
        return ShownIdentity(stamps, tuple(notes), is_settled=bool(stamps), option="--architecture NAME")
    return ShownIdentity(stamps, tuple(notes), is_settled=bool(stamps))


def _each_computation_once(candidates: Sequence[Architecture]) -> list[Architecture]:
    """The candidates, best known first, without those that turn equal weights into equal logits as one before does."""
    kept: list[Architecture] = []
    for each in candidates:
        twins = [group for group in SAME_COMPUTATION if each.model_type in group]
        if not any(other.model_type in group for group in twins for other in kept if other != each):
            kept.append(each)
    return kept


def _named(candidates: Sequence[Architecture], given: Mapping[str, str]) -> list[Architecture]:
    """The candidates that every given stamp can mean."""
    if not given:
        return []
    read = _read_gguf if candidates[0].naming is Naming.GGUF else read_stamp
    return [each for each in candidates if all(each in read(value) for value in given.values())]


def _read_gguf(value: str) -> tuple[Architecture, ...]:
    from apr.identity.gguf_evidence import read_gguf_stamp

    return read_gguf_stamp(normalise(value))


def _standing(claim: Claim, candidates: Sequence[Architecture]) -> list[Architecture]:
    """The candidates that some stamp in the file means, though others contradict it."""
    meant = {meaning for _, meanings in claim.readings for meaning in meanings}
    return [each for each in candidates if each in meant]
