"""The truth check: what a file will say after a stamp must agree with itself and with its tensors.

INV-STAMP-AGREE-001 cannot be overridden: a file whose stamps contradict each other is of use to nobody.
INV-STAMP-TRUTH-001 can, with a reason that stays in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from apr.errors import AprError, RefusedError, in_lines, shown_value
from apr.formats.base import Stamp
from apr.gates.finding import Finding, Status
from apr.identity.gguf_atlas import has_gguf_names
from apr.identity.types import Architecture, Claim, Evidence, Verdict, VerdictKind
from apr.identity.verdict import give_verdict
from apr.stamping.changes import StampChanges
from apr.stamping.edit import Edit

TRUTH_ID = "INV-STAMP-TRUTH-001"
AGREE_ID = "INV-STAMP-AGREE-001"

Recipe = Callable[[Architecture], str]
"""Makes the complete `apr stamp` command that stamps an architecture, for messages."""


class TruthCheck(NamedTuple):
    """verdict: on the file as it will be. findings: what the check says; forced: whether a refusal was overridden."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    is_forced: bool


def check_truth(edit: Edit, changes: StampChanges, recipe: Recipe, *, force_reason: str | None = None) -> TruthCheck:
    """Hold the stamps as they will be against each other and against the tensors.

    Raises RefusedError with every finding: stamps that disagree (given ones, or given ones with those that stay),
    values that the tensors contradict, and a claim that the tensors contradict or cannot confirm, unless
    `force_reason` says why it is to be written. Stamps that disagree are refused whatever the reason.
    """
    verdict = give_verdict(replace(edit.after, stamps=(*edit.after.stamps, *edit.asked)))
    disagreements = tuple(_disagreement_findings(verdict, changes, recipe))
    if disagreements:
        raise _refused("the stamps would contradict each other", AGREE_ID, edit, disagreements)
    findings = [Finding(AGREE_ID, Status.PASS, f"{len(verdict.claim.readings)} identity stamps agree")]
    conflicts = _new_conflicts(edit, verdict, changes, is_forced=force_reason is not None)
    if conflicts:
        findings.append(_conflict_finding(conflicts))
    truth = _truth_finding(verdict, changes, recipe, has_gguf_names(edit.after))
    if not conflicts or truth.status is Status.REFUSE:
        findings.append(truth)
    refusals = [finding for finding in findings if finding.status is Status.REFUSE]
    if not refusals:
        return TruthCheck(verdict, tuple(findings), is_forced=False)
    if force_reason is None:
        raise _refused(refusals[0].message, TRUTH_ID, edit, (refusals[0],))
    return TruthCheck(verdict, tuple(_forced(finding, force_reason) for finding in findings), is_forced=True)


def _forced(finding: Finding, reason: str) -> Finding:
    """`finding` as it is reported once it was overridden: what it says was not made true by the reason."""
    if finding.status is not Status.REFUSE:
        return finding
    message = f"written against the evidence ({reason}): {finding.message}"
    return finding._replace(status=Status.UNCHECKED, message=message)


def _disagreement_findings(verdict: Verdict, changes: StampChanges, recipe: Recipe) -> list[Finding]:
    architecture = _meant(verdict, changes)
    remedy = recipe(architecture) if architecture is not None else None
    return [
        Finding(
            AGREE_ID,
            Status.REFUSE,
            f"two stamps would contradict each other: {_say(first)}, but {_say(second)}",
            expected="stamps that name one architecture",
            found=f"{_say(first)}; {_say(second)}",
            remedy=remedy,
        )
        for first, second in verdict.claim.disagreements
    ]


def _new_conflicts(edit: Edit, verdict: Verdict, changes: StampChanges, *, is_forced: bool) -> tuple[str, ...]:
    """Facts that the stamp would bring into contradiction with each other or with the tensors.

    A value that nothing can be computed with is an error, and with `is_forced` what the gates have to say.
    """
    architecture = verdict.claim.architecture
    if architecture is None or not (changes.identity or changes.settings):
        return ()
    from apr.identity.config import resolve_config

    problem: AprError | None = None
    after: tuple[str, ...] = ()
    try:
        after = resolve_config(edit.after, architecture).conflicts
    except AprError as error:
        problem = error
    if problem is None and not after:
        return ()
    try:
        before = resolve_config(edit.before, architecture).conflicts
    except AprError:
        return ()  # The config was unusable before: the gates say so, and the stamp is not the cause.
    if problem is not None:
        if is_forced:
            return ()
        raise problem
    return tuple(line for line in after if line not in before)


def _conflict_finding(conflicts: tuple[str, ...]) -> Finding:
    return Finding(
        TRUTH_ID,
        Status.REFUSE,
        "a value to be set contradicts the tensors, or another recorded value",
        expected="values that the tensors and the rest of the file allow",
        found=in_lines(*conflicts),
        remedy="leave out that --set, or set the value that the tensors show; --force-untrue 'REASON' writes it",
    )


def _truth_finding(verdict: Verdict, changes: StampChanges, recipe: Recipe, in_gguf: bool) -> Finding:
    claim, evidence = verdict.claim, verdict.evidence
    unknown = _unknown_names(changes, in_gguf)
    if unknown:
        return Finding(
            TRUTH_ID,
            Status.REFUSE,
            "a stamp names no architecture that is known",
            expected="names of the atlas, spelled as " + ("llama.cpp" if in_gguf else "transformers") + " spells them",
            found="; ".join(str(each) for each in unknown),
            remedy=_remedy(evidence, recipe),
        )
    if verdict.kind is VerdictKind.MATCH:
        return Finding(TRUTH_ID, Status.PASS, f"the tensors are those of {claim.architecture}")
    if verdict.kind is VerdictKind.AMBIGUOUS:
        types = dict.fromkeys(candidate.architecture.model_type for candidate in evidence.candidates)
        own = claim.architecture.model_type if claim.architecture is not None else None
        twins = ", ".join(each for each in types if each != own)
        message = f"ambiguous: the tensors fit {claim.architecture}, and its name twins as well ({twins})"
        return Finding(TRUTH_ID, Status.PASS, message)
    if not claim.readings and not claim.unknown:
        return Finding(
            TRUTH_ID, Status.UNCHECKED, "the file says nothing of its identity, so there is nothing to check"
        )
    if verdict.kind is VerdictKind.UNKNOWN and not changes.identity:
        return Finding(TRUTH_ID, Status.UNCHECKED, "the identity stays as it is: " + "; ".join(verdict.reasons))
    return _contradiction(verdict, recipe)


def _unknown_names(changes: StampChanges, in_gguf: bool) -> tuple[object, ...]:
    if not changes.identity:
        return ()
    from apr.stamping.names import unknown_gguf_names, unknown_names

    return unknown_gguf_names(changes) if in_gguf else unknown_names(changes)


def _contradiction(verdict: Verdict, recipe: Recipe) -> Finding:
    claimed, evidence = verdict.claim.architecture, verdict.evidence
    shown = evidence.candidates[0].architecture if evidence.candidates else None
    claims = "; ".join(_say(stamp) for stamp in _stamps(verdict.claim))
    shows = str(shown) if shown is not None else "no known architecture"
    return Finding(
        TRUTH_ID,
        Status.REFUSE,
        f"the stamps would say {claimed or 'an unknown architecture'}, but the tensors show {shows}",
        expected=f"the tensors of {claimed}" if claimed else "a known architecture",
        found=in_lines(f"claimed: {claims}", f"shown: {shows}", *evidence.reasons),
        remedy=_remedy(evidence, recipe),
    )


def _remedy(evidence: Evidence, recipe: Recipe) -> str | None:
    return recipe(evidence.candidates[0].architecture) if evidence.candidates else None


def _meant(verdict: Verdict, changes: StampChanges) -> Architecture | None:
    """The architecture the user means: of those the tensors fit the one that was named, else the best of either."""
    given = set(changes.identity.values())
    fitting = [candidate.architecture for candidate in verdict.evidence.candidates]
    named = [each for each in fitting if {each.class_name, each.model_type} & given]
    readings = [meanings[0] for stamp, meanings in verdict.claim.readings if stamp.value in given and meanings]
    return next(iter([*named, *fitting, *readings]), None)


def _stamps(claim: Claim) -> tuple[Stamp, ...]:
    return (*(stamp for stamp, _ in claim.readings), *claim.unknown)


def _say(stamp: Stamp) -> str:
    return f"{stamp.place} = {shown_value(stamp.value)}"


def _refused(what: str, invariant: str, edit: Edit, findings: tuple[Finding, ...]) -> RefusedError:
    first = findings[0]
    return RefusedError(
        what,
        where=str(edit.before.path),
        expected=first.expected,
        found=in_lines(*(finding.found or "nothing" for finding in findings)),
        remedy=first.remedy,
        invariant=invariant,
        findings=tuple(finding.to_json() for finding in findings),
    )
