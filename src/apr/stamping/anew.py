"""A stamp as a new file: copied by the kernel and changed in the copy; streamed only where tensors must move apart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from apr.convert.metering import Meter, Report
from apr.convert.publishing import published
from apr.formats.base import Checkpoint, Format
from apr.formats.registry import open_checkpoint
from apr.stamping.edit import Edit, Editor
from apr.stamping.in_place import BYTES_ID, check_untouched
from apr.stamping.result import StampResult, check_written, proven
from apr.stamping.rights import RIGHTS
from apr.storage.atomic import atomic_file
from apr.storage.copying import copy_patched
from apr.storage.patches import Change

STREAMING_PASSES = 3  # read, write, read back


def write_anew(editor: Editor, edit: Edit, result: StampResult, report: Report | None) -> StampResult:
    """The stamped checkpoint as a new file or directory, which takes its place when it was reopened and checked.

    No tensor is read: the copy is the kernel's, and the patch of a stamp in place is made in it. Where that cannot be,
    every byte is read, written and read back, and a note says why.
    """
    change = editor.change(edit)
    reason = _reason_to_stream(edit, change)
    if change is not None and reason is None:
        return _copied(editor, edit, change, result, report)
    notes = (*result.notes, f"every byte was read back: {reason}")
    return _streamed(editor, edit, result._replace(notes=notes), report)


def _reason_to_stream(edit: Edit, change: Change | None) -> str | None:
    if change is None:
        return "tensors come or go with this stamp, or its metadata does not stand in front"
    if edit.before.format is Format.APR2:
        from apr.formats.apr2.extents import NO_FOOTER

        if any(problem.what == NO_FOOTER for problem in edit.before.problems):
            return "the file has no checksum at its end, and the copy gets one"
    return None


def _copied(editor: Editor, edit: Edit, change: Change, result: StampResult, report: Report | None) -> StampResult:
    before = edit.before
    meter = Meter(report, before.size_bytes, 1)
    with published(result.output) as beside:
        if before.directory is not None:
            editor.write(edit._replace(meter=meter), beside)
        else:
            _reserve(beside, before)
            with atomic_file(beside) as target:
                copy_patched(before.files[0].fileno(), target.fileno(), change.patches[0], meter.add)
        with open_checkpoint(beside) as written:
            check_untouched(before, written, change)
            return proven(result, check_written(editor, edit, result.entry, written), _how_untouched(before))


def _reserve(path: Path, original: Checkpoint) -> None:
    """An empty file with the rights of the original, which what is written at `path` takes over.

    So a copy is at no time open to more users than its original; the umask takes away what it does from any new file.
    """
    mode = stat.S_IMODE(os.fstat(original.files[0].fileno()).st_mode) & RIGHTS
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))


def _how_untouched(before: Checkpoint) -> str:
    digests = len(before.recorded.tensor_digests)
    recorded = f"; {digests} recorded digests go with it, for apr validate" if digests else ""
    return f"{len(before.tensors)} tensors copied as they stood; no byte of them was changed{recorded}"


def _streamed(editor: Editor, edit: Edit, result: StampResult, report: Report | None) -> StampResult:
    from apr.convert.proof import check_written as check_tensors
    from apr.convert.proof import intact_tensors

    meter = Meter(report, edit.before.size_bytes, STREAMING_PASSES)
    intact = intact_tensors(edit.before, meter)
    with published(result.output) as beside:
        if edit.before.directory is None:
            _reserve(beside, edit.before)
        editor.write(edit._replace(meter=meter), beside)
        with check_tensors(beside, intact, invariant=BYTES_ID, meter=meter) as written:
            how = f"{len(intact)} tensors read back, every digest as before"
            return proven(result, check_written(editor, edit, result.entry, written), how)
