"""INV-INIT-PROBE-001: the recorded probe's loss and logits are reproduced."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.presence import refusal

ID = "INV-INIT-PROBE-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    replay = facts.probe
    if facts.probe_error is not None:
        yield refusal(ID, facts.probe_error)
        return
    if replay is None:
        yield Finding(ID, Status.UNCHECKED, facts.probe_note or "no model was loaded")
        return
    recorded = replay.recorded
    measured = (
        f"loss {replay.loss:.6f}, off by {replay.loss_difference:.2e}; "
        f"top logits off by up to {replay.largest_logit_difference:.2e}"
    )
    allowed = f"{replay.allowed_loss_difference:.2g} in the loss, {replay.allowed_logit_difference:.2g} in a logit"
    if replay.noise is not None:
        allowed += f"; rounding alone moves this model by {replay.noise.loss:.2g} and {replay.noise.logit:.2g}"
    if replay.agrees:
        yield Finding(ID, Status.PASS, f"the probe is reproduced: {measured} (allowed: {allowed})")
    else:
        yield Finding(
            ID,
            Status.REFUSE,
            "the loaded model does not behave as the saved one did on the recorded probe",
            expected=f"loss {recorded.loss:.6f} and the recorded logits, within {allowed}",
            found=measured,
            remedy="names, shapes and bytes agree, so look at what no tensor shows: the config (rope, eps, heads, "
            "activation) and the version of the model code",
        )


GATE = Gate(ID, "the recorded probe is reproduced", Stage.RESIDENT, _check)
