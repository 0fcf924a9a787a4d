"""Prove what is in a model that somebody else loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apr.errors import AprError
from apr.formats.base import Checkpoint
from apr.formats.registry import open_checkpoint
from apr.gates import buffers as buffers_gate
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination, examine, examine_opened, refuse_unloadable
from apr.identity.gguf_atlas import has_gguf_names
from apr.library.holding import Held, Terms, hold, prove
from apr.library.injected import base_buffers
from apr.library.refusal import refuse_unless_accepted
from apr.library.resident import ResidentModel, read_resident
from apr.library.zoo_checks import zoo_facts
from apr.loading.buffers import BufferProblem, BufferReport, compare_buffers, non_persistent_buffers

if TYPE_CHECKING:
    import torch

BUFFERS_ID = buffers_gate.ID


def open_or_refuse(path: Path, terms: Terms) -> Checkpoint:
    """The open checkpoint; the road's own refusal when nothing can be opened, or what is opened is never loaded."""
    try:
        checkpoint = open_checkpoint(path)
    except AprError:
        refuse_unless_accepted(examine(path, terms.road_options()))
        raise
    if has_gguf_names(checkpoint):
        with checkpoint:
            refuse_unloadable(examine_opened(checkpoint, terms.road_options()))
    return checkpoint


def examine_model(
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    terms: Terms,
    *,
    replay_probe: bool = True,
    reference: torch.nn.Module | None = None,
) -> tuple[ResidentModel, Examination]:
    """Hold `model` against `checkpoint` at every stage; all findings, nothing raised for what they say.

    reference: a fresh module of the same kind on the CPU, for the derived buffers of a module that is no zoo class.
    """
    resident = read_resident(model)
    held = hold(resident, checkpoint, terms)
    return resident, prove_held(held, replay_probe=replay_probe, reference=reference)


def prove_held(held: Held, *, replay_probe: bool, reference: torch.nn.Module | None) -> Examination:
    """`prove` with the derived buffers and, for a zoo model that nothing refused so far, the probe."""
    resident = held.resident
    if resident.is_zoo_model:
        may_replay = replay_probe and held.examination.is_accepted
        return prove(held, zoo_facts(resident, held.examination.facts, replay_probe=may_replay))
    buffers = _buffers(resident.module, reference)
    if buffers is None:
        held = replace(held, gates=(*(gate for gate in held.gates if gate.id != BUFFERS_ID), _UNCOMPARED_BUFFERS))
    return prove(held, {"buffers": buffers, "probe_note": "a probe is recorded of zoo models only"})


def _buffers(module: torch.nn.Module, reference: torch.nn.Module | None) -> BufferReport | None:
    """Derived buffers against those of a fresh module; None when there is nothing to compare them with.

    Without a reference a buffer on the meta device is a problem still: nothing will ever fill it.
    """
    derived = base_buffers(module)
    if reference is not None or not derived:
        return compare_buffers(derived, {} if reference is None else non_persistent_buffers(reference))
    without_memory = tuple(
        BufferProblem(name, "a buffer with memory", "on the meta device", None)
        for name, buffer in derived.items()
        if buffer.is_meta
    )
    return BufferReport(tuple(sorted(derived)), without_memory) if without_memory else None


def _say_uncompared(_: InitFacts) -> Iterable[Finding]:
    yield Finding(
        BUFFERS_ID,
        Status.UNCHECKED,
        "the module has derived buffers and no fresh one to compare them with; give a factory in place of the module",
    )


_UNCOMPARED_BUFFERS = Gate(BUFFERS_ID, buffers_gate.GATE.title, Stage.RESIDENT, _say_uncompared)
