"""Small contracts that tests change one key at a time."""

from __future__ import annotations

from typing import Any


def clause(identifier: str, **changes: Any) -> dict[str, Any]:
    document = {
        "id": identifier,
        "title": "A small promise",
        "rule": "Something holds before step 1.",
        "why": "Because otherwise something else happens.",
        "refusal": "It does not hold for this file.",
        "remedy": "Do what the message says.",
        "applies_to": ["apr"],
        "ship_blocking": True,
        "falsifiers": [{"id": f"FALSIFY-{identifier}", "prediction": "The experiment shows it."}],
    }
    return {**document, **changes}


def contract(name: str = "small-v1", **changes: Any) -> dict[str, Any]:
    document = {
        "contract": name,
        "version": "1.0.0",
        "kind": "repair",
        "summary": "A contract for tests.",
        "motivation": "Tests need a small one.",
        "references": ["paiml/aprender#1758"],
        "clauses": [clause("INV-SMALL-001")],
    }
    return {**document, **changes}
