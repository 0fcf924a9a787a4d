"""What a stamp did: its result, the notes for the user, and what both ways of writing check and report alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr.convert.publishing import check_directory_writable, check_writable
from apr.errors import RefusedError
from apr.formats.base import Checkpoint, Format, Stamp, StampKey
from apr.formats.json_text import with_tagged_floats
from apr.gates.finding import Finding, Status
from apr.stamping.edit import Edit, Editor
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


def check_written(editor: Editor, edit: Edit, entry: Mapping[str, Any], written: Checkpoint) -> Written:
    """Hold what the reopened checkpoint says of itself against the facts that the gates have accepted.

    Its history has to end with `entry`, so that a file which says the same without this stamp is not taken for it.
    """
    history = editor.history(written)
    for what, wanted, found in (
        ("newest entry of the history", _text(entry), _text(history[-1]) if history else "no entry"),
        ("stamps", _values(edit.after.stamps), _values(written.stamps)),
        ("config", edit.after.config, written.config),
        ("dimensions", edit.after.typed, written.typed),
        ("records", facts_for_gates(edit.after.recorded), facts_for_gates(written.recorded)),
    ):
        if with_tagged_floats(wanted) != with_tagged_floats(found):
            raise RefusedError(
                f"the {what} of the stamped file: not as planned; the stamp was taken back",
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


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(with_tagged_floats(entry), sort_keys=True)


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
    if in_place and edit.changes:
        notes += _link_notes(edit)
    return notes


def notes_by_copy(notes: tuple[str, ...]) -> tuple[str, ...]:
    """`notes` once a changed copy took the place of a file for want of room inside it."""
    return (*notes, BY_COPY_NOTE)


def _link_notes(edit: Edit) -> list[str]:
    """What becomes of other names of the files that change: another file takes the place of each, and they keep it."""
    before = edit.before
    if before.format is not Format.HF_DIRECTORY:
        counts = {"this file": before.path.stat().st_nlink}
    else:
        texts = edit.after.weight_metadata
        changed = [name for name in texts if texts[name] != before.weight_metadata.get(name)]
        counts = {name: _link_count(before.path / name) for name in (*edit.after.metadata, *changed)}
    return [
        f"{count - 1} other hard links to {name} keep the old stamps" for name, count in counts.items() if count > 1
    ]


def _link_count(path: Path) -> int:
    try:
        return 1 if path.is_symlink() else path.stat().st_nlink
    except FileNotFoundError:
        return 1
