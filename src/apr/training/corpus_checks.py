"""What must hold for a corpus before step 1: it is text of this tokenizer, whole, and validation is kept apart.

Every check is one function over the same facts and gives one finding; ids are public (`docs/training.md`, §corpus).
Shards made by upstream's encoder, without our extras, stay usable: what cannot be checked says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apr.errors import InputOutputError, RefusedError
from apr.gates.finding import Finding, Status
from apr.loading.tokenizer import (
    NamedToken,
    build_tokenizer,
    end_of_document_token,
    tokenizer_output_hash,
    unknown_token,
    vocabulary_size,
)
from apr.training.corpus_manifest import (
    DOCUMENT_HASH_BYTES,
    DOCUMENT_HASHES_NAME,
    VALIDATION_FOLDER,
    CorpusManifest,
    ShardRow,
    SideRow,
    read_manifest,
)
from apr.training.corpus_scan import CorpusScan, TextSample, sample_text, scan_shards
from apr.training.windows import find_shards

MANIFEST_ID = "INV-CORPUS-MANIFEST-001"
STALE_ID = "INV-CORPUS-STALE-001"
TOKENIZER_ID = "INV-CORPUS-TOKENIZER-001"
RANGE_ID = "INV-CORPUS-RANGE-001"
UNKNOWN_ID = "INV-CORPUS-UNKNOWN-001"
ENTROPY_ID = "INV-CORPUS-ENTROPY-001"
DENSITY_ID = "INV-CORPUS-DENSITY-001"
END_ID = "INV-CORPUS-EOD-001"
SPLIT_ID = "INV-CORPUS-SPLIT-001"

# Thresholds: far outside anything a working encoder gives on text, so a refusal means damage (`docs/training.md`).
LARGEST_UNKNOWN_RATIO = 0.05
SMALLEST_ENTROPY_BITS = 2.0
LARGEST_BYTES_PER_TOKEN = 16.0
LARGEST_INFLATION = 1.25
ENCODE_AGAIN = "apr tokenize encode-corpus --corpus TEXT --tokenizer {tokenizer} --output NEW"


@dataclass(frozen=True)
class CorpusFacts:
    """A dataset directory as found. validation: the scan of its own validation folder, None without one."""

    directory: Path
    tokenizer_place: str
    model_rows: int
    manifest: CorpusManifest | None
    training: CorpusScan
    validation: CorpusScan | None
    tokenizer_hash: str
    tokenizer_rows: int
    end: NamedToken | None
    unknown: NamedToken | None
    sample: TextSample | None

    @property
    def encode_again(self) -> str:
        return ENCODE_AGAIN.format(tokenizer=self.tokenizer_place)


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
    allowed: Mapping[str, str] | None = None,
) -> CorpusReport:
    """Read the dataset once and let every check speak.

    allowed: check id to the user's reason; a refusal of that check becomes `unchecked` and says so. Raises what
    opening the directory raises (missing, empty, cut-off shard, damaged manifest).
    """
    facts = _gather(directory, tokenizer_files, tokenizer_place, model_rows)
    findings = tuple(_overridden(check(facts), allowed or {}) for check in CHECKS)
    return CorpusReport(facts, findings, _fingerprint(facts.training))


def refuse_corpus_unless_accepted(report: CorpusReport) -> None:
    """Raise one RefusedError with all refusing findings; return when there is none."""
    refusals = report.refusals
    if refusals:
        raise RefusedError(
            f"{report.facts.directory} is not a corpus to train on: {len(refusals)} finding"
            + ("s" if len(refusals) != 1 else ""),
            invariant=refusals[0].id,
            findings=tuple(finding.to_json() for finding in refusals),
        )


def _gather(
    directory: Path, tokenizer_files: Mapping[str, bytes], tokenizer_place: str, model_rows: int
) -> CorpusFacts:
    tokenizer = build_tokenizer(tokenizer_files, where=tokenizer_place)
    end, unknown = end_of_document_token(tokenizer_files, tokenizer), unknown_token(tokenizer_files, tokenizer)
    rows = vocabulary_size(tokenizer)
    training = scan_shards(find_shards(directory), max(rows, model_rows))
    folder = directory / VALIDATION_FOLDER
    specials = [token.id for token in (end,) if token is not None]
    return CorpusFacts(
        directory=directory,
        tokenizer_place=tokenizer_place,
        model_rows=model_rows,
        manifest=read_manifest(directory),
        training=training,
        validation=scan_shards(find_shards(folder), max(rows, model_rows)) if folder.is_dir() else None,
        tokenizer_hash=tokenizer_output_hash(tokenizer_files),
        tokenizer_rows=rows,
        end=end,
        unknown=unknown,
        sample=sample_text(training.sample, tokenizer, specials),
    )


def _sides(facts: CorpusFacts) -> list[tuple[str, CorpusScan, SideRow | None]]:
    manifest = facts.manifest
    sides = [("", facts.training, manifest.training if manifest else None)]
    if facts.validation is not None:
        sides.append((f"{VALIDATION_FOLDER}/", facts.validation, manifest.validation if manifest else None))
    return sides


def _check_manifest(facts: CorpusFacts) -> Finding:
    if facts.manifest is None:
        return Finding(MANIFEST_ID, Status.UNCHECKED, "the corpus has no manifest.json to hold its shards against")
    if facts.manifest.training is None:
        return Finding(MANIFEST_ID, Status.UNCHECKED, "the manifest lists no shards and no hashes (upstream's form)")
    problems: list[str] = []
    for prefix, scan, side in _sides(facts):
        problems += _side_problems(prefix, scan, side)
    if facts.validation is None and facts.manifest.validation is not None:
        problems.append(f"{VALIDATION_FOLDER}/: in the manifest, not on disk")
    if problems:
        return Finding(
            MANIFEST_ID,
            Status.REFUSE,
            "the shards are not those the manifest was written for",
            expected="every listed shard present, with its size and hash",
            found="\n".join(problems[:10]),
            remedy=facts.encode_again,
        )
    unread = sum(len(scan.unread) for _, scan, _ in _sides(facts))
    count = sum(len(scan.shards) for _, scan, _ in _sides(facts))
    note = f"; {unread} more were not read, being beyond the limit of the check" if unread else ""
    return Finding(MANIFEST_ID, Status.PASS, f"{count} shards have the sizes and hashes of the manifest{note}")


def _side_problems(prefix: str, scan: CorpusScan, side: SideRow | None) -> list[str]:
    listed = {row.name: row for row in side.shards} if side is not None else {}
    problems: list[str] = []
    present = {each.shard.path.name: each for each in scan.shards}
    for shard in scan.unread:
        row = listed.get(shard.path.name)
        if row is not None and row.tokens != shard.tokens:
            problems.append(f"{prefix}{row.name}: {row.tokens} tokens listed, {shard.tokens} on disk")
    unread = {shard.path.name for shard in scan.unread}
    for name, row in listed.items():
        seen = present.get(name)
        if seen is None:
            problems += [] if name in unread else [f"{prefix}{name}: missing"]
        elif seen.shard.tokens != row.tokens:
            problems.append(f"{prefix}{name}: {row.tokens} tokens listed, {seen.shard.tokens} on disk")
        elif seen.blake3 != row.blake3:
            problems.append(f"{prefix}{name}: blake3 {row.blake3[:16]}... listed, {seen.blake3[:16]}... on disk")
    return problems


def _check_stale(facts: CorpusFacts) -> Finding:
    if facts.manifest is None:
        return Finding(STALE_ID, Status.UNCHECKED, "without a manifest, left-over shards cannot be told from new ones")
    if facts.manifest.training is None:
        return _check_stale_by_count(facts, facts.manifest)
    extra: list[str] = []
    for prefix, scan, side in _sides(facts):
        listed: tuple[ShardRow, ...] = side.shards if side is not None else ()
        names = {row.name for row in listed}
        on_disk = [each.shard.path.name for each in scan.shards] + [shard.path.name for shard in scan.unread]
        extra += [f"{prefix}{name}" for name in on_disk if name not in names]
    if extra:
        return _stale(facts, "shards that the manifest lists, and no others", ", ".join(extra[:10]))
    return Finding(STALE_ID, Status.PASS, "no shard but the manifest's")


def _check_stale_by_count(facts: CorpusFacts, manifest: CorpusManifest) -> Finding:
    on_disk = len(facts.training.shards) + len(facts.training.unread)
    if manifest.shard_count is None:
        return Finding(STALE_ID, Status.UNCHECKED, "the manifest does not say how many shards there are")
    if on_disk != manifest.shard_count:
        return _stale(facts, f"{manifest.shard_count} shards", f"{on_disk} shards")
    return Finding(STALE_ID, Status.PASS, f"{on_disk} shards, as the manifest says")


def _stale(facts: CorpusFacts, expected: str, found: str) -> Finding:
    message = "shards of another run lie among those of the manifest"
    return Finding(STALE_ID, Status.REFUSE, message, expected, found, remedy=facts.encode_again)


def _check_tokenizer(facts: CorpusFacts) -> Finding:
    recorded = facts.manifest.tokenizer_hash if facts.manifest is not None else None
    if recorded is None:
        return Finding(TOKENIZER_ID, Status.UNCHECKED, "the corpus does not record the tokenizer it was encoded with")
    if recorded != facts.tokenizer_hash:
        return Finding(
            TOKENIZER_ID,
            Status.REFUSE,
            "the corpus was encoded with another tokenizer than the one given",
            expected=f"output hash {recorded}",
            found=f"output hash {facts.tokenizer_hash} ({facts.tokenizer_place})",
            remedy=f"--tokenizer {facts.directory / 'tokenizer'}, or {facts.encode_again}",
        )
    return Finding(TOKENIZER_ID, Status.PASS, "the corpus was encoded with this tokenizer, by hash of its output")


def _check_range(facts: CorpusFacts) -> Finding:
    largest = max((scan.largest_id or 0 for _, scan, _ in _sides(facts)), default=0)
    if largest >= facts.model_rows:
        return Finding(
            RANGE_ID,
            Status.REFUSE,
            "the corpus holds ids that the model has no embedding for",
            expected=f"ids from 0 to {facts.model_rows - 1}",
            found=f"id {largest}",
            remedy=facts.encode_again,
        )
    return Finding(RANGE_ID, Status.PASS, f"largest id {largest}, below the model's {facts.model_rows} rows")


def _check_unknown(facts: CorpusFacts) -> Finding:
    if facts.unknown is None:
        return Finding(UNKNOWN_ID, Status.PASS, "the tokenizer has no unknown token: every text has an encoding")
    ratio = facts.training.occurrences(facts.unknown.id) / max(1, facts.training.tokens)
    shown = f"{100 * ratio:.2f} % are {facts.unknown.text!r}"
    if ratio > LARGEST_UNKNOWN_RATIO:
        return Finding(
            UNKNOWN_ID,
            Status.REFUSE,
            "the corpus is made of unknown tokens: its text was lost when it was encoded",
            expected=f"at most {100 * LARGEST_UNKNOWN_RATIO:g} % unknown tokens",
            found=shown,
            remedy=facts.encode_again,
        )
    return Finding(UNKNOWN_ID, Status.PASS, shown)


def _check_entropy(facts: CorpusFacts) -> Finding:
    bits = facts.training.entropy_bits_without(facts.end.id if facts.end is not None else None)
    if bits < SMALLEST_ENTROPY_BITS:
        return Finding(
            ENTROPY_ID,
            Status.REFUSE,
            "the corpus says next to nothing: few ids make up nearly all of it",
            expected=f"at least {SMALLEST_ENTROPY_BITS:g} bits per token",
            found=f"{bits:.3f} bits per token",
            remedy=facts.encode_again,
        )
    return Finding(ENTROPY_ID, Status.PASS, f"{bits:.2f} bits per token")


def _check_density(facts: CorpusFacts) -> Finding:
    sample = facts.sample
    if sample is None:
        return Finding(DENSITY_ID, Status.UNCHECKED, "no sampled id belongs to the tokenizer's vocabulary")
    shown = f"{sample.bytes_per_token:.2f} bytes per token, {sample.inflation:.2f} x the tokenizer's own count"
    problems = []
    if sample.bytes_per_token > LARGEST_BYTES_PER_TOKEN:
        problems.append(f"at most {LARGEST_BYTES_PER_TOKEN:g} bytes per token")
    if sample.inflation > LARGEST_INFLATION:
        problems.append(f"at most {LARGEST_INFLATION:g} x the ids that the tokenizer makes of the same text")
    if problems:
        return Finding(
            DENSITY_ID,
            Status.REFUSE,
            "the ids are not what this tokenizer makes of the text they stand for",
            expected=", ".join(problems),
            found=shown,
            remedy=facts.encode_again,
        )
    return Finding(DENSITY_ID, Status.PASS, shown)


def _check_end(facts: CorpusFacts) -> Finding:
    manifest = facts.manifest
    recorded = manifest.eos_token_id if manifest is not None else None
    if manifest is None or manifest.eos_policy == "none" or recorded is None:
        reason = "no manifest" if manifest is None else "documents were encoded without an end-of-document token"
        return Finding(END_ID, Status.UNCHECKED, f"{reason}, so there is nothing to compare")
    wanted = "none" if facts.end is None else f"{facts.end.id} ({facts.end.text})"
    if facts.end is None or facts.end.id != recorded:
        return Finding(
            END_ID,
            Status.REFUSE,
            "documents end with another id than the tokenizer's end-of-document token",
            expected=wanted,
            found=str(recorded),
            remedy=facts.encode_again,
        )
    side = manifest.training
    count = facts.training.occurrences(recorded)
    if side is not None and not facts.training.unread and count < side.eos_tokens:
        message = "end-of-document tokens are missing from the shards"
        return Finding(END_ID, Status.REFUSE, message, str(side.eos_tokens), str(count), facts.encode_again)
    return Finding(END_ID, Status.PASS, f"{count} documents end with {wanted}")


def _check_split(facts: CorpusFacts) -> Finding:
    if facts.validation is None:
        return Finding(
            SPLIT_ID,
            Status.UNCHECKED,
            "the corpus has no validation side: windows are set aside, which may share documents with training",
            remedy="encode with --validation-fraction 0.01 for a split by document",
        )
    sets = []
    for prefix, _, side in _sides(facts):
        path = facts.directory / prefix / DOCUMENT_HASHES_NAME
        recorded = side.document_hashes_blake3 if side is not None else None
        if recorded is None:
            return Finding(SPLIT_ID, Status.UNCHECKED, "the corpus records no document hashes to compare")
        hashes = _document_hashes(path, recorded)
        if hashes is None:
            message = "the document hashes are missing or not those of the manifest"
            return Finding(SPLIT_ID, Status.REFUSE, message, f"blake3 {recorded}", str(path), facts.encode_again)
        sets.append(hashes)
    shared = sets[0] & sets[1]
    if shared:
        return Finding(
            SPLIT_ID,
            Status.REFUSE,
            "documents stand on both sides of the split, so validation would measure memory",
            expected="no document on both sides",
            found=f"{len(shared)} shared documents",
            remedy=facts.encode_again,
        )
    shown = f"{len(sets[0])} training and {len(sets[1])} validation documents have no text in common"
    return Finding(SPLIT_ID, Status.PASS, shown)


def _document_hashes(path: Path, recorded: str) -> set[bytes] | None:
    from blake3 import blake3

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputOutputError(f"cannot read the document hashes: {error.strerror}", where=str(path)) from error
    if len(content) % DOCUMENT_HASH_BYTES or blake3(content).hexdigest() != recorded:
        return None
    return {content[start : start + DOCUMENT_HASH_BYTES] for start in range(0, len(content), DOCUMENT_HASH_BYTES)}


CHECKS: Sequence[Callable[[CorpusFacts], Finding]] = (
    _check_manifest,
    _check_stale,
    _check_tokenizer,
    _check_range,
    _check_unknown,
    _check_entropy,
    _check_density,
    _check_end,
    _check_split,
)
CHECK_IDS = frozenset(
    [MANIFEST_ID, STALE_ID, TOKENIZER_ID, RANGE_ID, UNKNOWN_ID, ENTROPY_ID, DENSITY_ID, END_ID, SPLIT_ID]
)


def _overridden(finding: Finding, allowed: Mapping[str, str]) -> Finding:
    reason = allowed.get(finding.id)
    if reason is None or finding.status is not Status.REFUSE:
        return finding
    message = f"let through by the user ({reason}); would have refused: {finding.message}"
    return replace(finding, status=Status.UNCHECKED, message=message)


def _fingerprint(scan: CorpusScan) -> str:
    """`blake3:<hex>` over names, sizes and content hashes of the shards; an unread shard gives name and size."""
    from blake3 import blake3

    digest = blake3(b"apr.dataset/1\n")
    rows = [(each.shard.path.name, each.shard.tokens, each.blake3) for each in scan.shards]
    rows += [(shard.path.name, shard.tokens, "unread") for shard in scan.unread]
    for name, tokens, content in sorted(rows):
        digest.update(f"{name}\n{tokens}\n{content}\n".encode())
    return "blake3:" + digest.hexdigest()
