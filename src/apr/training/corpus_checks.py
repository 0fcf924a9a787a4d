"""What must hold for a corpus before step 1: it is text of this tokenizer, whole, and validation is kept apart.

Every check is one function over the same facts and gives one finding; ids are public (`docs/training.md`, "Corpus
checks"). Shards made by upstream's encoder, without our extras, stay usable: what cannot be checked says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from apr.gates.finding import Finding, Status
from apr.training import corpus_integrity, corpus_text
from apr.training.corpus_facts import CorpusFacts, gather_corpus
from apr.training.corpus_scan import CorpusScan


@dataclass(frozen=True)
class CorpusReport:
    """What was found, and the fingerprint that names the training side in records and seeds."""

    facts: CorpusFacts
    findings: tuple[Finding, ...]
    fingerprint: str

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status is Status.REFUSE)


def check_corpus(
    directory: Path,
    *,
    tokenizer_files: Mapping[str, bytes],
    tokenizer_place: str,
    model_rows: int,
    validation_directory: Path | None = None,
    allowed: Mapping[str, str] | None = None,
) -> CorpusReport:
    """Read the dataset once and let every check speak.

    allowed: check id to the user's reason; a refusal of that check becomes `unchecked` and says so. Raises what
    opening the directory raises (missing, empty, cut-off shard, damaged manifest).
    """
    facts = gather_corpus(
        directory,
        tokenizer_files=tokenizer_files,
        tokenizer_place=tokenizer_place,
        model_rows=model_rows,
        validation_directory=validation_directory,
    )
    findings = tuple(_overridden(check(facts), allowed or {}) for check in CHECKS.values())
    return CorpusReport(facts, findings, _fingerprint(facts.training.scan))


CHECKS: Mapping[str, Callable[[CorpusFacts], Finding]] = MappingProxyType(
    {
        corpus_integrity.MANIFEST_ID: corpus_integrity.check_manifest,
        corpus_integrity.STALE_ID: corpus_integrity.check_stale,
        corpus_text.TOKENIZER_ID: corpus_text.check_tokenizer,
        corpus_text.RANGE_ID: corpus_text.check_range,
        corpus_text.UNKNOWN_ID: corpus_text.check_unknown,
        corpus_text.ENTROPY_ID: corpus_text.check_entropy,
        corpus_text.DENSITY_ID: corpus_text.check_density,
        corpus_text.END_ID: corpus_text.check_end,
        corpus_integrity.SPLIT_ID: corpus_integrity.check_split,
    }
)


def _overridden(finding: Finding, allowed: Mapping[str, str]) -> Finding:
    reason = allowed.get(finding.id)
    if reason is None or finding.status is not Status.REFUSE:
        return finding
    message = f"let through by the user ({reason}); would have refused: {finding.message}"
    return finding._replace(status=Status.UNCHECKED, message=message)


def _fingerprint(scan: CorpusScan) -> str:
    """`blake3:<hex>` over names, sizes and content hashes of the shards; an unread shard gives name and size."""
    from blake3 import blake3

    digest = blake3(b"apr.dataset/1\n")
    rows = [(each.shard.path.name, each.shard.tokens, each.blake3) for each in scan.shards]
    rows += [(shard.path.name, shard.tokens, "unread") for shard in scan.unread]
    for name, tokens, content in sorted(rows):
        digest.update(f"{name}\n{tokens}\n{content}\n".encode())
    return "blake3:" + digest.hexdigest()
