"""The ordered table of gates: one line each, in the order in which they speak."""

from __future__ import annotations

from apr.gates import (
    architecture_match,
    buffers,
    config_facts,
    coverage,
    decoder_only,
    fresh_state,
    generation,
    idempotent,
    identity_present,
    integrity,
    lineage,
    presence,
    probe,
    receipt,
    shapes,
    stamps_agree,
    step0_loss,
    stored_tables,
    tokenizer_fits,
    values,
)
from apr.gates.facts import Gate

GATES: tuple[Gate, ...] = (
    presence.EXISTS,
    presence.RECOGNISED,
    integrity.HEADERS,
    identity_present.GATE,
    stamps_agree.GATE,
    architecture_match.GATE,
    decoder_only.GATE,
    coverage.GATE,
    shapes.GATE,
    config_facts.GATE,
    tokenizer_fits.FITS,
    tokenizer_fits.SAME,
    lineage.HEADERS,
    integrity.BYTES,
    lineage.BYTES,
    stored_tables.GATE,
    values.GATE,
    receipt.GATE,
    idempotent.GATE,
    buffers.GATE,
    probe.GATE,
    fresh_state.GATE,
    step0_loss.GATE,
    generation.GATE,
)
