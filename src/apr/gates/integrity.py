"""INV-FILE-INTEGRITY-001: structure and bytes agree: checksums, extents, sizes, shards."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import NotFoundError
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.presence import refusal

ID = "INV-FILE-INTEGRITY-001"
REMEDY = "fetch or restore an intact copy; `apr validate {path}` lists every problem"


def _check_headers(facts: InitFacts) -> Iterable[Finding]:
    error = facts.opening_error
    if error is not None and error.invariant == ID:
        yield refusal(ID, error)
        return
    if facts.checkpoint is None:
        reason = "the file does not exist" if isinstance(error, NotFoundError) else "the file was not recognised"
        yield Finding(ID, Status.UNCHECKED, reason)
        return
    for problem in facts.checkpoint.problems:
        message = f"{problem.what} ({problem.where})"
        if problem.is_harmless:
            yield Finding(ID, Status.PASS, f"noted, and harmless: {message}", problem.expected, problem.found)
        else:
            remedy = REMEDY.format(path=facts.local_path)
            yield Finding(ID, Status.REFUSE, message, problem.expected, problem.found, remedy)
    if not facts.checkpoint.contradictions:
        yield Finding(ID, Status.PASS, f"{len(facts.checkpoint.tensors)} tensors lie inside the file without overlap")


def _check_bytes(facts: InitFacts) -> Iterable[Finding]:
    if facts.checksum_problems is None:
        yield Finding(ID, Status.UNCHECKED, "checksums were not computed")
    elif facts.checksum_problems:
        for problem in facts.checksum_problems:
            message = f"{problem.what} ({problem.where})"
            remedy = REMEDY.format(path=facts.local_path)
            yield Finding(ID, Status.REFUSE, message, problem.expected, problem.found, remedy)
    else:
        yield Finding(ID, Status.PASS, "every checksum the file carries is right")


HEADERS = Gate(ID, "header, extents, sizes and shards agree", Stage.HEADERS, _check_headers)
BYTES = Gate(ID, "checksums over all bytes are right", Stage.VALUES, _check_bytes)
