"""FALSIFY-APR-PRETRAIN-ARCH-007: a decoder-only run refuses encoder checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from apr.errors import shell_word
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.identity.types import Architecture, Kind, Naming

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
    seeing = _looks_ahead(facts, named[0])
    if is_decoder and seeing is not None:
        yield _ahead(facts, named[0], *seeing)
        return
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


def _looks_ahead(facts: InitFacts, architecture: Architecture) -> tuple[str, Any] | None:
    """The key or field, with its value, that lets tokens attend to those that follow; None where none does."""
    if architecture.naming is Naming.GGUF:
        key = f"{architecture.model_type}.attention.causal"
        is_open = facts.checkpoint is not None and facts.checkpoint.metadata.get(key) is False
        return (key, False) if is_open else None
    values = {} if facts.config is None else facts.config.values
    if values.get("is_causal") is False:
        return "is_causal", False
    # "vision" lets only the tokens of one image see each other.
    field = "use_bidirectional_attention"
    return (field, values[field]) if values.get(field) in (True, "all") else None


def _ahead(facts: InitFacts, architecture: Architecture, key: str, value: Any) -> Finding:
    said = f"{key} = {json.dumps(value)}"
    if facts.run_kind is None:
        message = f"{architecture} attends to the tokens that follow ({said}): it predicts no next token"
        return Finding(ID, Status.UNCHECKED, message)
    right = "false" if value else "true"
    return Finding(
        ID,
        Status.REFUSE,
        "this run trains a next-token predictor, and the checkpoint says that every token attends to those that follow",
        expected=f"{key} absent or {right}",
        found=said,
        remedy="name a causal language model; if the value is wrong: "
        f"apr stamp {shell_word(facts.local_path)} --set {shell_word(f'{key}={right}')} --in-place",
    )


GATE = Gate(ID, "a decoder-only run starts from a decoder", Stage.HEADERS, _check)
