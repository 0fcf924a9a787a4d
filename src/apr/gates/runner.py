"""Run gates: every gate of a stage speaks, every finding is kept, overrides are named and recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from apr.errors import UsageError, in_lines, shell_word
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.table import GATES


def run_stage(
    stage: Stage, facts: InitFacts, allowed_gates: Mapping[str, str], gates: Sequence[Gate] = GATES
) -> tuple[Finding, ...]:
    """All findings of the gates of `stage`, in table order.

    allowed_gates: gate id to the user's reason; a refusal of such a gate becomes `unchecked`, and says both what it
    would have refused and why it was let through.
    """
    findings: list[Finding] = []
    for gate in gates:
        if gate.stage is stage:
            findings.extend(_overridden(finding, allowed_gates) for finding in _spoken(gate, facts))
    return tuple(findings)


def _spoken(gate: Gate, facts: InitFacts) -> Iterator[Finding]:
    """What `gate` finds; a remedy for a checkpoint on another machine begins with bringing it to this one."""
    for finding in gate.check(facts):
        remedy, download = finding.remedy, facts.download
        if download is not None and remedy is not None and _names(remedy, shell_word(download.local)):
            yield finding._replace(remedy=in_lines(download.command, remedy))
        else:
            yield finding


def _names(text: str, path: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w/-])", text) is not None


def check_overrides(allowed_gates: Mapping[str, str]) -> None:
    """Raise UsageError naming every override that names no gate or gives no reason."""
    known = {gate.id for gate in GATES}
    unknown = sorted(set(allowed_gates) - known)
    unreasoned = sorted(gate_id for gate_id, reason in allowed_gates.items() if not reason.strip())
    if unknown or unreasoned:
        problems = [f"{gate_id} is no gate" for gate_id in unknown]
        problems += [f"{gate_id} is allowed without a reason" for gate_id in unreasoned]
        raise UsageError(
            "an override names one gate and gives a reason",
            expected=f"--allow-gate ID=REASON, with an ID among {', '.join(sorted(known))}",
            found="; ".join(problems),
        )


def _overridden(finding: Finding, allowed_gates: Mapping[str, str]) -> Finding:
    reason = allowed_gates.get(finding.id)
    if reason is None or finding.status is not Status.REFUSE:
        return finding
    message = f"let through by the user ({reason}); would have refused: {finding.message}"
    return finding._replace(status=Status.UNCHECKED, message=message)
