"""INV-LINEAGE-001: the recorded digests of a checkpoint agree with each other and with its bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from apr.errors import shell_word
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.plan import counted_names

ID = "INV-LINEAGE-001"
DIGEST_FORM = re.compile(r"blake3:[0-9a-f]{64}")


def _check_headers(facts: InitFacts) -> Iterable[Finding]:
    if facts.checkpoint is None:
        yield Finding(ID, Status.UNCHECKED, "no header could be read")
        return
    recorded = facts.checkpoint.recorded
    parent = recorded.training.parent_digest if recorded.training is not None else None
    if parent is not None and not DIGEST_FORM.fullmatch(parent):
        yield Finding(
            ID, Status.REFUSE, "the parent is not named by a weights digest", "blake3:<64 hex digits>", parent
        )
        return
    if recorded.weights_digest is None:
        yield Finding(ID, Status.UNCHECKED, "the checkpoint records no weights digest")
        return
    computed = weights_digest(
        TensorDigest(name, entry.dtype, entry.shape, recorded.tensor_digests.get(name, ""))
        for name, entry in facts.checkpoint.tensors.items()
        if name in counted_names(facts.checkpoint, facts.plan)
    )
    if computed != recorded.weights_digest:
        yield Finding(
            ID,
            Status.REFUSE,
            "the recorded weights digest is not that of the recorded tensor digests",
            expected=recorded.weights_digest,
            found=computed,
        )
    else:
        origin = f"parent {parent}" if parent is not None else "no parent: trained from scratch or imported"
        yield Finding(ID, Status.PASS, f"weights {computed}; {origin}")


def _check_bytes(facts: InitFacts) -> Iterable[Finding]:
    if facts.checkpoint is None or facts.values is None:
        yield Finding(ID, Status.UNCHECKED, "the bytes were not read")
        return
    recorded = facts.checkpoint.recorded.tensor_digests
    if not recorded:
        yield Finding(ID, Status.UNCHECKED, "the checkpoint records no tensor digests")
        return
    changed = sorted(
        name for name, seen in facts.values.items() if name in recorded and recorded[name] != seen.blake3_hex
    )
    if changed:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{len(changed)} tensors hold other bytes than were recorded when the checkpoint was written",
            expected=f"{changed[0]}: blake3 {recorded[changed[0]]}",
            found=f"{changed[0]}: blake3 {facts.values[changed[0]].blake3_hex}",
            remedy=f"restore an intact copy of {shell_word(facts.path)}",
        )
    else:
        yield Finding(ID, Status.PASS, f"{len(recorded)} tensor digests are those recorded when it was written")


HEADERS = Gate(ID, "recorded digests agree with each other", Stage.HEADERS, _check_headers)
BYTES = Gate(ID, "the bytes are those recorded", Stage.VALUES, _check_bytes)
