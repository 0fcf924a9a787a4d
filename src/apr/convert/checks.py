"""What every conversion checks before and after: no lie goes in, and what comes out is the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from apr.convert.proof import StoredTensor
from apr.errors import RefusedError, UsageError, in_lines
from apr.formats.base import Checkpoint, Format
from apr.formats.damage import damaged
from apr.formats.json_text import with_tagged_floats
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination
from apr.identity.claim import read_claim
from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.plan import counted_names

IDENTITY_ID = "INV-CONVERT-HF-ARCH-001"
GENERATION_ID = "INV-GENERATION-001"
MATCH_ID = "INV-INIT-ARCH-MATCH-001"

REFUSING_GATES = frozenset(
    {
        "INV-FILE-INTEGRITY-001",
        "INV-STAMP-AGREE-001",
        MATCH_ID,
        "INV-INIT-COVERAGE-001",
        "INV-INIT-SHAPE-001",
    }
)
"""Gates whose refusal stops a conversion: the source is damaged, or is not what it says. The others speak of a run."""

IDENTITY_GATES = frozenset({"INV-STAMP-AGREE-001", MATCH_ID})

PLAN_GATES = frozenset({"INV-INIT-COVERAGE-001", "INV-INIT-SHAPE-001"})
"""Gates of the load plan. A false claim entails their refusal: whoever lets that claim pass has let these pass."""


class Fate(StrEnum):
    """What a conversion did with a stored tensor."""

    COPIED = "copied"
    DEQUANTIZED = "dequantised"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One stored tensor of the source and its fate; a reason for everything but a plain copy."""

    name: str
    fate: Fate
    reason: str | None = None


def check_texts(checkpoint: Checkpoint) -> None:
    """Raise DamagedFileError where what the checkpoint records has no UTF-8 form, and so cannot be written."""
    import json

    documents = (checkpoint.config, checkpoint.generation_config, checkpoint.metadata)
    try:
        for document in documents:
            json.dumps(document, ensure_ascii=False, default=_as_json).encode()
    except UnicodeEncodeError as error:
        raise damaged(
            "a text that the checkpoint records holds half of a surrogate pair, which has no UTF-8 form",
            path=checkpoint.path,
            expected="texts of whole characters",
            found=repr(error.object[max(error.start - 20, 0) : error.end]),
            remedy="repair the text in the config that holds it",
        ) from error


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else repr(value)


def check_convertible(checkpoint: Checkpoint) -> None:
    """Raise UsageError for a container whose tensors have other names and forms than a conversion copies."""
    if checkpoint.format is Format.GGUF:
        raise UsageError(
            "GGUF files are read and stamped, and not converted yet",
            where=str(checkpoint.path),
            expected="an .apr file, a .safetensors file or a Hugging Face directory",
            found="a GGUF file, whose tensors have names, orders and forms of their own",
            remedy="convert the model that the GGUF file was made from",
        )


def refuse_lies(examination: Examination) -> tuple[Finding, ...]:
    """The findings of the header gates that concern a conversion; RefusedError with all that refuse.

    A checkpoint none of whose stamps names a known architecture cannot be caught in a lie: its stamps, if any, are
    carried along as they are, and its identity is called unchecked. Nothing is invented. Where facts of the config are
    missing, a plan rests on defaults of the class and proves nothing; the verdict has spoken of names and shapes.
    """
    verdict, config = examination.facts.verdict, examination.facts.config
    undecidable: set[str] = set()
    if verdict is not None and not verdict.claim.readings:
        undecidable |= IDENTITY_GATES
    if config is not None and config.missing:
        undecidable |= PLAN_GATES
    kept = [
        _unchecked(finding) if finding.id in undecidable else finding
        for finding in examination.findings
        if finding.id in REFUSING_GATES
    ]
    refusals = [finding for finding in kept if finding.status is Status.REFUSE]
    if MATCH_ID in examination.options.allowed_gates:
        refusals = [finding for finding in refusals if finding.id not in PLAN_GATES]
    if not refusals:
        return tuple(kept)
    first = refusals[0]
    raise RefusedError(
        "the checkpoint is not what it says, so it is not converted",
        where=str(examination.facts.path),
        remedy=_remedy(refusals),
        invariant=first.id,
        findings=tuple(finding.to_json() for finding in refusals),
    )


def _unchecked(finding: Finding) -> Finding:
    return finding if finding.status is Status.PASS else finding._replace(status=Status.UNCHECKED, remedy=None)


def _remedy(refusals: list[Finding]) -> str:
    """The repair, then the way past; a mismatch speaks for what follows from it."""
    ids = dict.fromkeys(finding.id for finding in refusals)
    if MATCH_ID in ids:
        ids = {each: None for each in ids if each not in PLAN_GATES}
    recipes = dict.fromkeys(finding.remedy for finding in refusals if finding.remedy is not None)
    allowed = " ".join(f"--allow-gate {each}=REASON" for each in ids)
    return in_lines(*recipes, f"or convert it as it is, with a reason that is recorded: {allowed}")


def digest_of(stored: Mapping[str, StoredTensor], examination: Examination) -> str:
    """The weights digest of `stored`, over the tensors of the examined checkpoint that count."""
    checkpoint, plan = examination.facts.checkpoint, examination.facts.plan
    counted = frozenset[str]() if checkpoint is None else counted_names(checkpoint, plan)
    return weights_digest(TensorDigest(name, *stored[name]) for name in counted if name in stored)


def check_same_model(source: Checkpoint, written: Checkpoint, config: Mapping[str, Any] | None) -> None:
    """Raise RefusedError unless `written` carries the identity, config, generation config and tokenizer wanted.

    config: what the written checkpoint is to record, None when nothing is known.
    """
    before, after = read_claim(source), read_claim(written)
    if before.architecture != after.architecture:
        raise _lost(IDENTITY_ID, "identity", before.architecture, after.architecture)
    for what, wanted, found in (
        ("config", config, written.config),
        ("generation config", source.generation_config, written.generation_config),
        ("tokenizer", source.tokenizer_files(), written.tokenizer_files()),
        ("training record", source.recorded.training, written.recorded.training),
        ("probe", source.recorded.probe, written.recorded.probe),
    ):
        if _plain(wanted) != _plain(found) and (wanted or found):
            raise _lost(GENERATION_ID, what, wanted, found)


def _plain(value: object) -> object:
    """Comparable: NaN, which equals nothing, in its tagged form."""
    return with_tagged_floats(value) if isinstance(value, Mapping) else value


def _lost(invariant: str, what: str, wanted: object, found: object) -> RefusedError:
    return RefusedError(
        f"the {what} did not survive the conversion; the result was not put in place",
        expected=f"{wanted!s:.400}",
        found=f"{found!s:.400}",
        remedy="report it with the source's config.json and metadata; the source is unchanged",
        invariant=invariant,
    )
