"""What INV-INIT-VALUES-001 says of norm gains: the convention they show, and gains that let nothing through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apr.gates.facts import InitFacts
from apr.gates.finding import Finding, Status
from apr.gates.words import VALUES_ID, VALUES_REMEDY, folded, repair_commands
from apr.identity.atlas import load_atlas
from apr.identity.types import Architecture, Naming
from apr.loading.norm_gains import Convention, GainCentre, convention_of, dead_gains, gain_centre
from apr.loading.values import TensorFacts


def norm_findings(facts: InitFacts, seen: Mapping[str, TensorFacts]) -> Iterable[Finding]:
    """Norm gains that contradict what the claimed class computes with them."""
    assert facts.plan is not None
    claimed = facts.plan.target.architecture
    is_gguf = claimed.naming is Naming.GGUF
    # llama.cpp computes x * w in every norm; its converter adds the one where the model's own class does not.
    convention = Convention.PLAIN if is_gguf else convention_of(claimed.model_type, facts.plan.target.config.values)
    # What a class of the user's own computes, nobody knows.
    is_known = is_gguf or load_atlas().find_model_type(claimed.model_type)
    if convention is Convention.EITHER or not is_known:
        return
    centre = gain_centre(seen)
    dead = dead_gains(seen.values()) if convention is Convention.PLAIN else ()
    if centre is not None and (centre is GainCentre.ZERO) is not (convention is Convention.ADDS_ONE):
        yield _one_is_missing() if is_gguf else _other_convention(facts, claimed, convention, centre)
    elif dead:
        yield Finding(
            VALUES_ID,
            Status.REFUSE,
            f"{len(dead)} norm gains are zero everywhere, and {claimed} computes {convention.value}: nothing gets "
            "through these norms",
            expected="trained values",
            found=folded(dead),
            remedy=VALUES_REMEDY,
        )


def _one_is_missing() -> Finding:
    return Finding(
        VALUES_ID,
        Status.REFUSE,
        "the norm gains lie around 0, and llama.cpp computes x * w with them: the one is missing that its converter "
        "adds to the gains of a model that computes x * (1 + w)",
        expected="norm gains around 1",
        found="norm gains around 0",
        remedy="convert the model again with the converter of llama.cpp, or get a copy that it wrote",
    )


def _other_convention(facts: InitFacts, claimed: Architecture, own: Convention, centre: GainCentre) -> Finding:
    other = Convention.PLAIN if own is Convention.ADDS_ONE else Convention.ADDS_ONE
    candidates = facts.verdict.evidence.candidates if facts.verdict is not None else ()
    twins = [each.architecture for each in candidates if convention_of(each.architecture.model_type, {}) is other]
    shown = f"as {twins[0]} has them, which computes {other.value}" if twins else f"as norms that compute {other.value}"
    slip = "one was added to every gain already" if own is Convention.ADDS_ONE else "one was taken from every gain"
    return Finding(
        VALUES_ID,
        Status.REFUSE,
        f"the norm gains lie around {centre.value}, {shown}; "
        f"{claimed} computes {own.value} and would scale every layer wrongly",
        expected=f"norm gains around {1 - centre.value}",
        found=f"norm gains around {centre.value}",
        remedy=repair_commands(facts, twins[0]) if twins else f"{slip}: get a copy from before that conversion",
    )
