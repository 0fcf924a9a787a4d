"""INV-GENERATION-001: what a run writes carries the identity, config and weights of the model it trained."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import shown_value
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.words import folded

ID = "INV-GENERATION-001"


def _check(facts: InitFacts) -> Iterable[Finding]:
    written, checkpoint = facts.written, facts.checkpoint
    if written is None or checkpoint is None or facts.verdict is None:
        yield Finding(ID, Status.UNCHECKED, "nothing was written to compare with")
        return
    claimed = facts.verdict.claim.architecture
    if claimed != written.architecture:
        found = str(claimed) if claimed is not None else "no single known architecture"
        message = "the written checkpoint carries another identity than the model"
        yield Finding(ID, Status.REFUSE, message, str(written.architecture), found)
    recorded = checkpoint.config or {}
    changed = sorted(
        key for key in written.config.keys() | recorded.keys() if written.config.get(key) != recorded.get(key)
    )
    if changed:
        yield Finding(
            ID,
            Status.REFUSE,
            f"the written config differs from the model's in {', '.join(changed)}",
            expected=f"{changed[0]} = {shown_value(written.config.get(changed[0]))}",
            found=f"{changed[0]} = {shown_value(recorded.get(changed[0]))}",
        )
    yield from _compare_weights(facts)
    if claimed == written.architecture and not changed:
        yield Finding(ID, Status.PASS, f"written as {claimed}, with the full config")


def _compare_weights(facts: InitFacts) -> Iterable[Finding]:
    assert facts.written is not None
    resident = facts.written.resident_digests
    if facts.values is None:
        yield Finding(ID, Status.UNCHECKED, "the written bytes were not read back")
        return
    seen = {name: value.blake3_hex for name, value in facts.values.items()}
    differing = tuple(sorted(name for name in resident.keys() | seen.keys() if resident.get(name) != seen.get(name)))
    if differing:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(differing)} written tensors are not those of the model",
            expected="the bytes resident in the model",
            found=folded(differing),
        )
    else:
        yield Finding(ID, Status.PASS, f"{len(seen)} written tensors equal the resident ones")


GATE = Gate(ID, "a written checkpoint is its model, in identity, config and weights", Stage.SAVED, _check)
