"""FALSIFY-APR-PRETRAIN-INIT-010: loading is idempotent: the loaded weights have the digest of the file's."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status

ID = "FALSIFY-APR-PRETRAIN-INIT-010"


def _check(facts: InitFacts) -> Iterable[Finding]:
    if facts.receipt is None or facts.source_digest is None:
        yield Finding(ID, Status.UNCHECKED, "no model was loaded" if facts.receipt is None else "the file was not read")
    elif facts.receipt.weights_digest == facts.source_digest:
        yield Finding(ID, Status.PASS, f"check and load read the same weights, {facts.source_digest}")
    else:
        yield Finding(
            ID,
            Status.REFUSE,
            "two readings of the checkpoint gave different weights",
            expected=facts.source_digest,
            found=facts.receipt.weights_digest,
            remedy="make sure nothing writes to the checkpoint, and check the disk",
        )


GATE = Gate(ID, "two loads give the same weights digest", Stage.RESIDENT, _check)
