"""FALSIFY-APR-PRETRAIN-ARCH-007: a decoder-only run refuses encoder checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.identity.types import Kind

ID = "FALSIFY-APR-PRETRAIN-ARCH-007"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.verdict is None:
        yield Finding(ID, Status.UNCHECKED, "no header could be read")
        return
    evidence = facts.verdict.evidence.candidates
    claimed = facts.verdict.claim.architecture
    named = [claimed] if claimed is not None else [candidate.architecture for candidate in evidence]
    if not named:
        yield Finding(ID, Status.UNCHECKED, "no architecture is known")
        return
    if facts.run_kind not in (Kind.DECODER, None):
        yield Finding(ID, Status.UNCHECKED, "not a decoder-only run")
        return
    # Tensors decide over the label: an encoder stamped as a decoder is still an encoder.
    shown_kinds = {candidate.architecture.kind for candidate in evidence}
    is_decoder = named[0].kind is Kind.DECODER and (not shown_kinds or Kind.DECODER in shown_kinds)
    if is_decoder:
        yield Finding(ID, Status.PASS, f"{named[0]} predicts the next token")
        return
    if facts.run_kind is None:
        yield Finding(ID, Status.UNCHECKED, f"{named[0]} is of kind {named[0].kind.value}: `apr pretrain` refuses it")
        return
    kinds = ", ".join(sorted(kind.value for kind in shown_kinds)) or "nothing known"
    yield Finding(
        ID,
        Status.REFUSE,
        "this run trains a next-token predictor, and the checkpoint is none",
        expected="a decoder",
        found=f"claimed: {named[0]}, {named[0].kind.value}; its tensors are of kind: {kinds}",
        remedy="name a causal language model",
    )


GATE = Gate(ID, "a decoder-only run starts from a decoder", Stage.HEADERS, _check)
