"""The header gates over a checkpoint as a stamp will leave it: what passed before has to pass afterwards.

They speak before anything is written. The reopened checkpoint is held against the very facts they have seen
(`apr.stamping.result`), so what they said is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError, in_lines
from apr.formats.base import Checkpoint
from apr.formats.json_text import is_same
from apr.formats.recorded import NOTHING_RECORDED, Recorded
from apr.gates.finding import Finding
from apr.stamping.edit import Edit

if TYPE_CHECKING:
    from apr.gates.road import Examination


def check_stays_accepted(edit: Edit, entry: Mapping[str, Any], force_reason: str | None) -> tuple[Finding, ...]:
    """What would refuse the checkpoint once it is stamped, when nothing refuses it as it stands.

    Raises RefusedError with those findings unless `force_reason` says why it is to be written. A checkpoint that is
    refused already may be stamped: of two things to repair one has to come first. A stamp that changes no fact that a
    gate looks at (a licence) needs none of them.

    entry: what the history will say of the stamp; a fact that is changed with its knowledge is declared, not drifted.
    """
    if not _concerns_gates(edit):
        return ()
    recorded = edit.after.recorded._replace(history=(*edit.before.recorded.history, entry))
    after = _examined(replace(edit.after, recorded=recorded), edit)
    if after.is_accepted or not _examined(edit.before, edit).is_accepted:
        return ()
    refusals = after.refusals
    if force_reason is not None:
        return refusals
    raise RefusedError(
        f"the checkpoint is accepted as it stands, and would be refused once it is stamped: {refusals[0].message}",
        where=str(edit.before.path),
        expected=refusals[0].expected,
        found=in_lines(*(f"{finding.id}: {finding.found or finding.message}" for finding in refusals)),
        remedy="leave out the value that brings it in, or give --force-untrue 'REASON'",
        invariant=refusals[0].id,
        findings=tuple(finding.to_json() for finding in refusals),
    )


def _concerns_gates(edit: Edit) -> bool:
    before, after = edit.before, edit.after
    return (
        edit.tokenizer_files is not None
        or before.stamps != after.stamps
        or not is_same(before.config, after.config)
        or not is_same(before.typed, after.typed)
        or facts_for_gates(before.recorded) != facts_for_gates(after.recorded)
    )


def facts_for_gates(recorded: Recorded) -> Recorded:
    """What the gates look at of our record: all but its history and the provenance."""
    return recorded._replace(history=(), provenance=NOTHING_RECORDED.provenance)


def _examined(checkpoint: Checkpoint, edit: Edit) -> Examination:
    """Every header gate, for a run of any kind; a tokenizer that the stamp does not touch is not read, as that takes
    longer than all else."""
    from apr.gates.road import RoadOptions, examine_opened

    if edit.tokenizer_files is None:
        checkpoint = replace(checkpoint, count_tokenizer_rows=lambda: None)
    return examine_opened(checkpoint, RoadOptions(run_kind=None))
