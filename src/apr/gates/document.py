"""The answer of `apr preflight` as one JSON document, schema `apr.preflight/1`."""

from __future__ import annotations

from typing import Any

from apr.gates.road import Examination
from apr.identity.folding import fold_names
from apr.identity.types import Architecture, Candidate, Naming
from apr.loading.ledger import LoadPlan

SCHEMA = "apr.preflight/1"


def preflight_document(examination: Examination) -> dict[str, Any]:
    """Stable keys: path, format, accepted, verdict, claimed, inferred, ledger, findings."""
    facts = examination.facts
    verdict = facts.verdict
    return {
        "schema": SCHEMA,
        "path": str(facts.path),
        "format": None if facts.checkpoint is None else facts.checkpoint.format.value,
        "accepted": examination.is_accepted,
        "verdict": None if verdict is None else verdict.kind.value,
        "claimed": {
            "architecture": None if verdict is None else _architecture(verdict.claim.architecture),
            "stamps": []
            if facts.checkpoint is None
            else [{"place": stamp.place, "value": stamp.value} for stamp in facts.checkpoint.stamps],
        },
        "inferred": {
            "candidates": [] if verdict is None else [_candidate(each) for each in verdict.evidence.candidates],
            "runner_up": None
            if verdict is None or verdict.evidence.runner_up is None
            else _candidate(verdict.evidence.runner_up),
            "config": _dimensions(verdict.evidence.candidates) if verdict is not None else {},
            "reasons": [] if verdict is None else list(verdict.reasons),
        },
        "ledger": None if facts.plan is None else _ledger(facts.plan),
        "weights_digest": facts.source_digest,
        "findings": [finding.to_json() for finding in examination.findings],
    }


def _architecture(architecture: Architecture | None) -> dict[str, str | None] | None:
    """The names of an architecture; GGUF has one of its own and none of Hugging Face's."""
    if architecture is None:
        return None
    if architecture.naming is Naming.GGUF:
        return {
            "gguf_architecture": architecture.model_type,
            "hf_architecture": None,
            "hf_model_type": None,
            "kind": architecture.kind.value,
        }
    return {
        "hf_architecture": architecture.class_name,
        "hf_model_type": architecture.model_type,
        "kind": architecture.kind.value,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        **(_architecture(candidate.architecture) or {}),
        "explains_all": candidate.explains_all,
        "unfilled": list(candidate.unfilled),
        "unused": list(candidate.unused),
        "shape_conflicts": list(candidate.shape_conflicts),
    }


def _dimensions(candidates: tuple[Candidate, ...]) -> dict[str, int]:
    return dict(candidates[0].dimensions) if candidates else {}


def _ledger(plan: LoadPlan) -> dict[str, Any]:
    ledger = plan.ledger
    return {
        "target": _architecture(plan.target.architecture),
        "origin": plan.target.origin,
        "filled": len(ledger.filled),
        "unfilled": _folded(ledger.unfilled),
        "unused": _folded(ledger.unused),
        "tied": [{"name": ruling.name, "with": ruling.partner, "rule": ruling.rule.value} for ruling in ledger.tied],
        "ruled": [
            {"name": ruling.name, "rule": ruling.rule.value, "reason": ruling.reason}
            for ruling in ledger.ruled
            if ruling not in ledger.tied
        ],
        "shape_conflicts": [
            {"name": each.name, "expected": list(each.expected), "found": list(each.found)}
            for each in ledger.shape_conflicts
        ],
        "dtype": plan.dtype.value,
        "added_prefix": plan.added_prefix,
        "casts": sorted({f"{each.cast_from} -> {each.cast_to}" for each in plan.assignments if not each.is_bit_exact}),
    }


def _folded(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"names": folded, "count": count} for folded, count in fold_names(names)]
