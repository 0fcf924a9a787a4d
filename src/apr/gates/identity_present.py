"""FALSIFY-APR-PRETRAIN-INIT-005: identity and dimensions are present and sane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apr.errors import shown_value
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.presence import refusal
from apr.gates.words import repair_commands

ID = "FALSIFY-APR-PRETRAIN-INIT-005"
MOST_HEADS = 1024
LARGEST_INTEGER = 1 << 63
# Dimensions every language model has, under their Hugging Face names.
DIMENSIONS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.checkpoint is None or facts.verdict is None:
        yield Finding(ID, Status.UNCHECKED, "no header could be read")
        return
    findings = list(_problems(facts))
    yield from findings
    if not findings and facts.config is not None:
        shown = ", ".join(f"{name} {facts.config.values[name]}" for name in DIMENSIONS if name in facts.config.values)
        yield Finding(ID, Status.PASS, f"{facts.config.architecture}: {shown}")


def _problems(facts: InitFacts) -> Iterable[Finding]:
    assert facts.verdict is not None
    claim, evidence = facts.verdict.claim, facts.verdict.evidence
    if not claim.readings and not claim.unknown:
        candidates = evidence.candidates
        yield Finding(
            ID,
            Status.REFUSE,
            "the checkpoint does not say what it is",
            expected="a stamp of its architecture",
            found="no stamp at all"
            + (
                f"; its tensors look like {candidates[0].architecture}"
                if candidates
                else "; its tensors fit nothing known"
            ),
            remedy=repair_commands(facts, candidates[0].architecture) if candidates else None,
        )
    elif facts.config_error is not None:
        yield refusal(ID, facts.config_error)
    elif facts.config is None:
        yield Finding(
            ID,
            Status.REFUSE,
            "no single architecture is claimed, so its dimensions cannot be read",
            expected="stamps that name one known architecture",
            found=", ".join(f"{stamp.place} {shown_value(stamp.value)}" for stamp, _ in claim.readings)
            or ", ".join(f"{stamp.place} {shown_value(stamp.value)}" for stamp in claim.unknown),
        )
    else:
        for name in DIMENSIONS:
            value = facts.config.values.get(name)
            if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
                yield Finding(
                    ID,
                    Status.REFUSE,
                    f"{name} is not a sane dimension",
                    expected="a positive integer",
                    found=shown_value(value),
                )
        for name, sane, found in _absurd(facts.config.values):
            yield Finding(ID, Status.REFUSE, f"{name} is not a sane number", expected=sane, found=f"{found}")


def _absurd(values: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Numbers that no model has: name, what is sane, and what stands there."""
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int) and heads > max(width, MOST_HEADS):
        yield "num_attention_heads", f"at most one head for each of the {width} values of a state", heads
    for name, value in _numbers(values):
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
            yield name, "a number below 2 to the 63rd", f"{str(value)[:20]}... ({len(str(value))} digits)"


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


GATE = Gate(ID, "identity and dimensions are present and sane", Stage.HEADERS, _check)
