"""Refusals as exceptions of the library: the text of the exception holds every finding, as nobody prints them later."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import RefusedError, in_lines
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination
from apr.gates.road import refuse_unless_accepted as refuse_on_the_road


def refuse_unless_accepted(examination: Examination, what: str | None = None) -> None:
    """Raise RefusedError with all findings in its text and in `findings`; return when nothing refuses.

    what: the first sentence of the refusal, None for what the road says of a path that would be loaded. A missing path
    raises NotFoundError and a file of no known format DamagedFileError, as on the command line.
    """
    try:
        refuse_on_the_road(examination)
    except RefusedError as error:
        raise refused(what or error.what, examination.findings, where=str(examination.facts.path)) from None


def refused(what: str, findings: Iterable[Finding], *, where: str | None = None) -> RefusedError:
    """The error that says `what`, with every refusing finding among `findings`."""
    refusals = [finding for finding in findings if finding.status is Status.REFUSE]
    remedies = list(dict.fromkeys(finding.remedy for finding in refusals if finding.remedy))
    return RefusedError(
        what,
        where=where,
        found=in_lines(*(line for finding in refusals for line in _lines(finding))),
        remedy=in_lines(*remedies) if remedies else None,
        invariant=refusals[0].id if refusals else None,
        findings=tuple(finding.to_json() for finding in refusals),
    )


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.id}: {finding.message}"]
    if finding.expected is not None or finding.found is not None:
        lines.append(f"  expected {finding.expected or 'nothing of the kind'}, found {finding.found or 'nothing'}")
    return lines
