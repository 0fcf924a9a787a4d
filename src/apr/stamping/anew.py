"""A stamp as a new file: every tensor copied, every byte read back, then put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apr.convert.metering import Meter, Report
from apr.convert.proof import StoredTensor, check_written, intact_tensors
from apr.convert.publishing import published
from apr.gates.finding import Finding, Status
from apr.stamping.edit import Edit, Editor
from apr.stamping.in_place import BYTES_ID
from apr.stamping.patch import HISTORY_ID, StampResult, check_stamps, flags_of

PASSES = 3  # read, write, read back


def write_anew(editor: Editor, edit: Edit, result: StampResult, report: Report | None) -> StampResult:
    """The stamped checkpoint as a new file that takes its place when every byte was read back."""
    meter = Meter(report, edit.before.size_bytes, PASSES)
    expected = intact_tensors(edit.before, meter)
    with published(result.output) as beside:
        editor.write(edit._replace(meter=meter), beside)
        return _proven(beside, expected, edit, meter, result)


def _proven(
    path: Path, expected: Mapping[str, StoredTensor], edit: Edit, meter: Meter, result: StampResult
) -> StampResult:
    """The result with what the file on disk shows, after it was reopened and read again."""
    with check_written(path, expected, invariant=BYTES_ID, meter=meter) as written:
        check_stamps(edit, written)
        findings = (
            *result.findings,
            Finding(BYTES_ID, Status.PASS, f"{len(expected)} tensors read back, every digest as before"),
            Finding(HISTORY_ID, Status.PASS, f"{len(result.changes)} previous values kept in the history"),
        )
        return result._replace(findings=findings, output_bytes=written.size_bytes, header_flags=flags_of(written))
