"""`stamp_file`: change what a checkpoint says of itself, prove that its tensors are untouched, then publish it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.convert.publishing import check_output, check_writable
from apr.errors import UsageError, shell_word
from apr.formats.base import Checkpoint, Format
from apr.formats.registry import open_checkpoint
from apr.gates.finding import Finding, Status
from apr.stamping.changes import StampChanges, checked_changes, with_identity
from apr.stamping.edit import Edit, Editor
from apr.stamping.history import history_entry
from apr.stamping.in_place import apply_in_place
from apr.stamping.preflighted import check_stays_accepted
from apr.stamping.recipe import Destination, recipe_for
from apr.stamping.result import (
    StampResult,
    Written,
    check_written,
    flags_of,
    notes_by_copy,
    notes_on,
    proven,
    written_file,
)
from apr.stamping.signatures import broken_signatures
from apr.stamping.truth import TRUTH_ID, check_truth
from apr.storage.inplace import FileChangedError

if TYPE_CHECKING:
    from apr.convert.metering import Report

ATTEMPTS = 5  # when another stamp comes first, this one is planned again


def editor_of(format_: Format) -> Editor:
    """How checkpoints of `format_` are stamped; only that editor is imported."""
    if format_ is Format.APR2:
        from apr.stamping import edit_apr2

        return edit_apr2.EDITOR
    if format_ is Format.SAFETENSORS:
        from apr.stamping import edit_safetensors

        return edit_safetensors.EDITOR
    if format_ is Format.GGUF:
        from apr.stamping import edit_gguf

        return edit_gguf.EDITOR
    from apr.stamping import edit_hf

    return edit_hf.EDITOR


def stamp_file(
    path: Path,
    changes: StampChanges,
    output: Path | None = None,
    *,
    in_place: bool = False,
    force: bool = False,
    force_reason: str | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    undo: bool = False,
    auto: bool = False,
    report: Report | None = None,
) -> StampResult:
    """Stamp the checkpoint at `path` into `output`, or where it stands with `in_place` (a link is followed).

    force: replace an existing output. force_reason: why a stamp that contradicts the tensors is written all the same.
    reason: why the stamp is made; kept in the history. dry_run: check everything and write nothing. undo: take back the
    newest stamp that was not taken back yet, with no changes given. auto: add the identity that the tensors show.
    report: told of the bytes done.

    Raises UsageError (nothing to stamp, no or two destinations), NotFoundError, DamagedFileError (not a checkpoint,
    or a damaged one), RefusedError (INV-STAMP-AGREE-001, INV-STAMP-TRUTH-001, INV-APR-PROV-003, existing output),
    InputOutputError. After any of them input and output are as they were.
    """
    source = Path(path)
    if undo:
        from apr.stamping.undo import check_undo

        check_undo(changes, auto=auto)
    elif not (auto and changes.is_empty):
        changes = checked_changes(changes)
    _check_reason(force_reason)
    destination = _destination(source, output, in_place=in_place, force=force)
    order = _Order(source, changes, destination, force_reason, reason, dry_run, undo, auto, (), report)
    for _ in range(ATTEMPTS - 1):
        try:
            return _stamp(order)
        except FileChangedError as error:
            _check_whole(destination.path, error)
    return _stamp(order)


def _check_whole(path: Path, error: FileChangedError) -> None:
    """Raise `error` unless what changed the file left it whole, as another stamp does and a writer at work does not."""
    with open_checkpoint(path) as checkpoint:
        if checkpoint.contradictions:
            raise error


class _Order(NamedTuple):
    """One stamp as it was asked for, checked."""

    source: Path
    changes: StampChanges
    destination: Destination
    force_reason: str | None
    reason: str | None
    is_dry_run: bool
    is_undo: bool
    is_auto: bool
    notes: tuple[str, ...]
    report: Report | None


def _stamp(order: _Order) -> StampResult:
    destination = order.destination
    tokenizer_files = None
    if order.changes.tokenizer is not None:
        from apr.stamping.tokenizer import read_tokenizer

        tokenizer_files = read_tokenizer(order.changes.tokenizer)
    with open_checkpoint(destination.path if destination.in_place else order.source) as checkpoint:
        editor = editor_of(checkpoint.format)
        if checkpoint.format is Format.GGUF and len(checkpoint.files) > 1:
            order = _of_the_first_part(order, checkpoint)
            destination = order.destination
        if destination.in_place and not order.is_dry_run:
            check_writable(written_file(checkpoint))
        order = _with_family_slug(order, checkpoint.format)
        if order.is_auto:
            order = _with_shown_identity(order, checkpoint)
        edit, findings, entry = (
            _plan_undo(order, editor, checkpoint)
            if order.is_undo
            else _plan(order, editor, checkpoint, tokenizer_files)
        )
        result = _planned(order, edit, entry, findings)
        if order.is_dry_run:
            return result
        if destination.in_place and not edit.changes:
            return result._replace(output_bytes=result.input_bytes)
        edit = editor.record(edit, entry)
        stamped = _stamp_in_place(editor, edit, result) if destination.in_place else None
        if stamped is not None:
            return stamped
        from apr.stamping.anew import write_anew

        return write_anew(editor, edit, result, order.report)


def _with_family_slug(order: _Order, format_: Format) -> _Order:
    if order.changes.architecture is None:
        return order
    from apr.stamping.names import with_family_slug

    changes, notes = with_family_slug(order.changes, format_)
    return order._replace(changes=changes, notes=notes)


def _of_the_first_part(order: _Order, checkpoint: Checkpoint) -> _Order:
    """The order for a GGUF model in several files: the first has the keys, and is what a stamp changes."""
    count, first = len(checkpoint.files), checkpoint.path
    if not order.destination.in_place:
        raise UsageError(
            f"a model in {count} files is stamped where it stands",
            where=str(order.source),
            expected="--in-place",
            found=f"-o {order.destination.path}",
            remedy=f"to keep the original, copy its {count} files first; or make one file of them: "
            f"llama-gguf-split --merge {shell_word(first)} OUT.gguf",
        )
    if first == order.destination.path:
        return order
    note = f"the keys of this model of {count} files stand in the first, {first.name}: that is what is stamped"
    return order._replace(destination=Destination(first, in_place=True), notes=(*order.notes, note))


Plan = tuple[Edit, tuple[Finding, ...], dict[str, Any]]


def _plan(order: _Order, editor: Editor, checkpoint: Checkpoint, tokenizer_files: Mapping[str, bytes] | None) -> Plan:
    changes = order.changes
    edit = editor.plan(checkpoint, changes, tokenizer_files)
    recipe = recipe_for(order.source, order.destination, changes)
    truth = check_truth(edit, changes, recipe, force_reason=order.force_reason)
    findings = truth.findings
    if tokenizer_files is not None:
        from apr.stamping.tokenizer import check_tokenizer

        findings += check_tokenizer(checkpoint, tokenizer_files, truth.verdict)
    if truth.is_forced and order.force_reason:
        overrides = {TRUTH_ID: order.force_reason}
        return edit, findings, history_entry("stamp", edit.changes, reason=order.reason, overrides=overrides)
    entry = history_entry("stamp", edit.changes, reason=order.reason)
    brought_in = check_stays_accepted(edit, entry, order.force_reason)
    if brought_in and order.force_reason:
        written = f"written against the gate ({order.force_reason}): "
        findings += tuple(each._replace(status=Status.UNCHECKED, message=written + each.message) for each in brought_in)
        entry = {**entry, "overrides": {finding.id: order.force_reason for finding in brought_in}}
    return edit, findings, entry


def _plan_undo(order: _Order, editor: Editor, checkpoint: Checkpoint) -> Plan:
    from apr.stamping.undo import undo_edit, undo_finding

    edit, undone = undo_edit(editor, checkpoint)
    entry = history_entry("undo", edit.changes, reason=order.reason)
    return edit, (undo_finding(edit, undone),), {**entry, "undoes": undone.get("time")}


def _with_shown_identity(order: _Order, checkpoint: Checkpoint) -> _Order:
    from apr.stamping.auto import shown_identity

    shown = shown_identity(checkpoint, order.changes.identity)
    changes = with_identity(order.changes, shown.stamps)
    if changes.is_empty and not shown.is_settled:
        raise shown.refusal(checkpoint.path)
    return order._replace(changes=changes, notes=(*order.notes, *shown.notes))


def _planned(order: _Order, edit: Edit, entry: Mapping[str, Any], findings: tuple[Finding, ...]) -> StampResult:
    """What is known of a stamp before it is written."""
    checkpoint = edit.before
    broken = broken_signatures(_changed_files(edit, order)) if edit.changes else ()
    verb = "would break" if order.is_dry_run else "breaks"
    return StampResult(
        source=order.source,
        output=order.destination.path,
        format=checkpoint.format,
        input_bytes=checkpoint.size_bytes,
        output_bytes=None,
        tensor_count=len(checkpoint.tensors),
        stamped=_stamped(order.changes),
        changes=edit.changes,
        findings=findings,
        notes=(
            *order.notes,
            *edit.notes,
            *notes_on(edit, in_place=order.destination.in_place),
            *(f"this {verb} the signature {each.signature}; to sign again: {each.sign_again}" for each in broken),
        ),
        entry=entry,
        header_flags=flags_of(checkpoint),
        is_dry_run=order.is_dry_run,
        broken_signatures=broken,
    )


def _changed_files(edit: Edit, order: _Order) -> Iterator[Path]:
    """The files that the edit changes or adds at its destination, and the link by which it was named."""
    destination = order.destination
    if edit.before.format is not Format.HF_DIRECTORY:
        yield destination.path
        if destination.in_place and order.source.is_symlink():
            yield order.source
        return
    for name in edit.after.metadata:
        yield destination.path / name
    for name, texts in edit.after.weight_metadata.items():
        if texts != edit.before.weight_metadata.get(name):
            yield destination.path / name


def _stamp_in_place(editor: Editor, edit: Edit, result: StampResult) -> StampResult | None:
    """The result of the stamp where the checkpoint stands; None when only a new file will do."""
    change = editor.change(edit)
    if change is None:
        return None
    seen: list[Written] = []
    link_count = written_file(edit.before).stat().st_nlink
    done = apply_in_place(edit, change, lambda written: seen.append(check_written(edit, written)))
    is_copied = any(patch.by_copy for patch in done.patches)
    how = "were copied as they stood" if is_copied else "stand as they stood; no byte of them was written"
    if is_copied:
        result = result._replace(notes=notes_by_copy(result.notes, link_count))
    return proven(result, seen[-1], f"{len(edit.before.tensors)} tensors {how}")


def _destination(source: Path, output: Path | None, *, in_place: bool, force: bool) -> Destination:
    if in_place == (output is not None):
        raise UsageError(
            "say where the stamped checkpoint goes",
            expected="either -o OUT or --in-place",
            found="both" if in_place else "neither",
            remedy=f"apr stamp {shell_word(source)} ... -o OUT",
        )
    if output is None:
        return Destination(source.resolve(), in_place=True)
    check_output(source, output, force=force)
    return Destination(output, in_place=False)


def _check_reason(force_reason: str | None) -> None:
    if force_reason is not None and not force_reason.strip():
        raise UsageError(
            "a stamp against the evidence needs a reason, which is kept in the file",
            where="--force-untrue",
            expected="--force-untrue 'REASON'",
            found="an empty text",
        )


def _stamped(changes: StampChanges) -> dict[str, Any]:
    tokenizer = {"tokenizer": str(changes.tokenizer)} if changes.tokenizer is not None else {}
    return {**changes.identity, **changes.provenance, **tokenizer, **changes.settings}
