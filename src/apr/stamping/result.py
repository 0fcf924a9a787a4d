"""What a stamp did: its result, the notes for the user, and what both ways of writing check and report alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr.convert.publishing import check_directory_writable, check_writable
from apr.errors import RefusedError
from apr.formats.base import Checkpoint, Format, Stamp, StampKey
from apr.formats.json_text import with_tagged_floats
from apr.gates.finding import Finding, Status
from apr.stamping.edit import Edit
from apr.stamping.history import Change
from apr.stamping.in_place import BYTES_ID
from apr.stamping.preflighted import facts_for_gates
from apr.stamping.signatures import BrokenSignature
from apr.stamping.truth import TRUTH_ID

MOST_SHOWN_CHARACTERS = 300
HISTORY_ID = "INV-STAMP-HISTORY-001"
INTEGRITY_ID = "INV-FILE-INTEGRITY-001"
BY_COPY_NOTE = "this file system cannot make room inside a file: a changed copy took its place"


class StampResult(NamedTuple):
    """What a stamp did, or with `is_dry_run` would do. sizes are of all files of the checkpoint, in bytes.

    stamped: the values written, by field of StampChanges. header_flags: flag bits of an `.apr`, None elsewhere.
    entry: the history entry as it stands in the file. notes: what the user should know beside the findings.
    broken_signatures: those that do not hold any more.
    """

    source: Path
    output: Path
    format: Format
    input_bytes: int
    output_bytes: int | None
    tensor_count: int
    stamped: Mapping[str, Any]
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    entry: Mapping[str, Any]
    header_flags: int | None
    is_dry_run: bool
    broken_signatures: tuple[BrokenSignature, ...] = ()


class Written(NamedTuple):
    """What the reopened checkpoint showed of itself."""

    size_bytes: int
    header_flags: int | None


def check_written(edit: Edit, written: Checkpoint) -> Written:
    """Hold what the reopened checkpoint says of itself against the facts that the gates have accepted."""
    for what, wanted, found in (
        ("stamps", _values(edit.after.stamps), _values(written.stamps)),
        ("config", edit.after.config, written.config),
        ("dimensions", edit.after.typed, written.typed),
        ("records", facts_for_gates(edit.after.recorded), facts_for_gates(written.recorded)),
    ):
        if with_tagged_floats(wanted) != with_tagged_floats(found):
            raise RefusedError(
                f"the {what} in the stamped file are not the planned ones; the stamp was taken back",
                where=str(edit.before.path),
                expected=str(wanted)[:MOST_SHOWN_CHARACTERS],
                found=str(found)[:MOST_SHOWN_CHARACTERS],
                remedy="run again; the file is as it was",
                invariant=TRUTH_ID,
            )
    if written.contradictions and not edit.before.contradictions:
        problem = written.contradictions[0]
        raise RefusedError(
            f"the stamped file would contradict itself: {problem.what}; the stamp was taken back",
            where=problem.where,
            expected=problem.expected,
            found=problem.found,
            remedy="leave out the value that brings it in; the file is as it was",
            invariant=INTEGRITY_ID,
        )
    return Written(written.size_bytes, flags_of(written))


def _values(stamps: tuple[Stamp, ...]) -> dict[StampKey, str]:
    return {stamp.key: stamp.value for stamp in stamps}


def proven(result: StampResult, written: Written, how_untouched: str) -> StampResult:
    """`result` of a stamp that was written, reopened and checked. how_untouched: how its tensors are known to be."""
    findings = (
        *result.findings,
        Finding(BYTES_ID, Status.PASS, how_untouched),
        Finding(HISTORY_ID, Status.PASS, f"{len(result.changes)} previous values kept in the history"),
    )
    return result._replace(findings=findings, output_bytes=written.size_bytes, header_flags=written.header_flags)


def flags_of(checkpoint: Checkpoint) -> int | None:
    """The header flags of an `.apr`; None of other formats."""
    if checkpoint.format is not Format.APR2:
        return None
    from apr.stamping.edit_apr2 import header_flags

    return int(header_flags(checkpoint))


def check_rights(checkpoint: Checkpoint) -> None:
    """Raise InputOutputError unless the checkpoint may be stamped where it stands.

    A config that is a link gives way to a file of its own, so that what it leads to may be read-only.
    """
    if checkpoint.format is Format.HF_DIRECTORY and (checkpoint.path / "config.json").is_symlink():
        check_directory_writable(checkpoint.path)
    else:
        check_writable(written_file(checkpoint))


def written_file(checkpoint: Checkpoint) -> Path:
    """The file that shows the stamps of the checkpoint, and whose other names show them too or do not."""
    if checkpoint.format is Format.HF_DIRECTORY:
        return (checkpoint.path / "config.json").resolve()
    return checkpoint.path


def notes_on(edit: Edit, *, in_place: bool) -> list[str]:
    """What the user should know of the checkpoint, before it is stamped."""
    checkpoint = edit.before
    notes = [f"{problem.what} ({problem.where})" for problem in checkpoint.problems]
    if not edit.changes:
        notes.append("every stamp stands there already" + ("; nothing was written" if in_place else ""))
    if in_place:
        link_count = written_file(checkpoint).stat().st_nlink
        notes += _link_notes(link_count, keeps=checkpoint.format is Format.HF_DIRECTORY)
    return notes


def notes_by_copy(notes: tuple[str, ...], link_count: int) -> tuple[str, ...]:
    """`notes` once a changed copy took the place of the file: its other names do not show the new stamps."""
    untrue = _link_notes(link_count, keeps=False)
    kept = (note for note in notes if note not in untrue)
    return tuple(dict.fromkeys((*kept, *_link_notes(link_count, keeps=True), BY_COPY_NOTE)))


def _link_notes(link_count: int, *, keeps: bool) -> list[str]:
    """What becomes of other names of the file; keeps: another file takes its place."""
    if link_count == 1:
        return []
    return [f"{link_count - 1} other hard links to this file {'keep the old stamps' if keeps else 'show it too'}"]
