"""Is the corpus whole, is it one corpus, and is validation kept apart?"""

from __future__ import annotations

from pathlib import Path

from apr.errors import InputOutputError, in_lines
from apr.gates.finding import Finding, Status
from apr.training.corpus_facts import CorpusFacts, Side
from apr.training.corpus_manifest import (
    DOCUMENT_HASH_BYTES,
    DOCUMENT_HASHES_NAME,
    VALIDATION_FOLDER,
    CorpusManifest,
    SideRow,
)
from apr.training.corpus_scan import CorpusScan

MANIFEST_ID = "INV-CORPUS-MANIFEST-001"
STALE_ID = "INV-CORPUS-STALE-001"
SPLIT_ID = "INV-CORPUS-SPLIT-001"


def check_manifest(facts: CorpusFacts) -> Finding:
    """Every shard the manifest lists is there, with its size and hash."""
    if facts.manifest is None:
        return Finding(MANIFEST_ID, Status.UNCHECKED, "the corpus has no manifest.json to hold its shards against")
    if facts.training.row is None:
        return _check_count(facts, facts.manifest)
    problems = [problem for side in facts.sides if side.row is not None for problem in _side_problems(side, side.row)]
    if facts.validation is None and facts.manifest.validation is not None:
        problems.append(f"{VALIDATION_FOLDER}/: in the manifest, not on disk")
    if problems:
        return Finding(
            MANIFEST_ID,
            Status.REFUSE,
            "the shards are not those the manifest was written for",
            expected="every listed shard present, with its size and hash",
            found=in_lines(*problems[:10]),
            remedy=facts.encode_again,
        )
    unread = sum(len(side.scan.unread) for side in facts.sides)
    count = sum(len(side.scan.shards) for side in facts.sides if side.row is not None)
    note = f"; {unread} more were not read, being beyond the limit of the check" if unread else ""
    return Finding(MANIFEST_ID, Status.PASS, f"{count} shards have the sizes and hashes of the manifest{note}")


def _check_count(facts: CorpusFacts, manifest: CorpusManifest) -> Finding:
    """Upstream's manifest lists no shards, but says how many there were."""
    on_disk = len(_names(facts.training.scan))
    if manifest.shard_count is not None and on_disk < manifest.shard_count:
        message, expected = "shards of the manifest are missing", f"{manifest.shard_count} shards"
        return Finding(MANIFEST_ID, Status.REFUSE, message, expected, f"{on_disk} shards", facts.encode_again)
    return Finding(MANIFEST_ID, Status.UNCHECKED, "the manifest lists no shards and no hashes (upstream's form)")


def _side_problems(side: Side, row: SideRow) -> list[str]:
    present = {each.shard.path.name: each for each in side.scan.shards}
    unread = {shard.path.name: shard for shard in side.scan.unread}
    problems: list[str] = []
    for listed in row.shards:
        name = f"{side.label}{listed.name}"
        seen = present.get(listed.name)
        shard = seen.shard if seen is not None else unread.get(listed.name)
        if shard is None:
            problems.append(f"{name}: missing")
        elif shard.tokens != listed.tokens:
            problems.append(f"{name}: {listed.tokens} tokens listed, {shard.tokens} on disk")
        elif seen is not None and seen.blake3 != listed.blake3:
            problems.append(f"{name}: blake3 {listed.blake3[:16]}... listed, {seen.blake3[:16]}... on disk")
    return problems


def check_stale(facts: CorpusFacts) -> Finding:
    """No shard lies in the directory but those of its manifest."""
    if facts.manifest is None:
        return Finding(STALE_ID, Status.UNCHECKED, "without a manifest, left-over shards cannot be told from new ones")
    if facts.training.row is None:
        return _check_stale_by_count(facts, facts.manifest)
    extra: list[str] = []
    for side in facts.sides:
        if side.row is None and side.directory.parent != facts.directory:
            continue  # Shards of their own, made by an encoder that lists none.
        listed = {row.name for row in side.row.shards} if side.row is not None else set()
        extra += [f"{side.label}{name}" for name in _names(side.scan) if name not in listed]
    if extra:
        return _stale(facts, "shards that the manifest lists, and no others", ", ".join(extra[:10]))
    return Finding(STALE_ID, Status.PASS, "no shard but the manifest's")


def _check_stale_by_count(facts: CorpusFacts, manifest: CorpusManifest) -> Finding:
    on_disk = len(_names(facts.training.scan))
    if manifest.shard_count is None:
        return Finding(STALE_ID, Status.UNCHECKED, "the manifest does not say how many shards there are")
    if on_disk > manifest.shard_count:
        return _stale(facts, f"{manifest.shard_count} shards", f"{on_disk} shards")
    return Finding(STALE_ID, Status.PASS, f"{on_disk} shards, no more than the manifest says")


def _names(scan: CorpusScan) -> list[str]:
    return [each.shard.path.name for each in scan.shards] + [shard.path.name for shard in scan.unread]


def _stale(facts: CorpusFacts, expected: str, found: str) -> Finding:
    message = "shards of another run lie among those of the manifest"
    return Finding(STALE_ID, Status.REFUSE, message, expected, found, remedy=facts.encode_again)


def check_split(facts: CorpusFacts) -> Finding:
    """Validation shares no shard and no document with training."""
    validation = facts.validation
    if validation is None:
        return Finding(
            SPLIT_ID,
            Status.UNCHECKED,
            "the corpus has no validation side: windows are set aside, which may share documents with training",
            remedy="encode with --validation-fraction 0.01 for a split by document",
        )
    trained_on = {each.blake3 for each in facts.training.scan.shards}
    same = [each.shard.path.name for each in validation.scan.shards if each.blake3 in trained_on and each.shard.tokens]
    if same:
        return _overlap(facts, f"shards that are also trained on: {', '.join(same[:5])}")
    sets = []
    for side in facts.sides:
        recorded = side.row.document_hashes_blake3 if side.row is not None else None
        if recorded is None:
            return Finding(SPLIT_ID, Status.UNCHECKED, "the corpus records no document hashes to compare")
        path = side.directory / DOCUMENT_HASHES_NAME
        hashes = _document_hashes(path, recorded)
        if hashes is None:
            message = "the document hashes are missing or not those of the manifest"
            return Finding(SPLIT_ID, Status.REFUSE, message, f"blake3 {recorded}", str(path), facts.encode_again)
        sets.append(hashes)
    shared = sets[0] & sets[1]
    if shared:
        return _overlap(facts, f"{len(shared)} shared documents")
    shown = f"{len(sets[0])} training and {len(sets[1])} validation documents have no text in common"
    return Finding(SPLIT_ID, Status.PASS, shown)


def _overlap(facts: CorpusFacts, found: str) -> Finding:
    return Finding(
        SPLIT_ID,
        Status.REFUSE,
        "text stands on both sides of the split, so validation would measure memory",
        expected="nothing on both sides",
        found=found,
        remedy=facts.encode_again,
    )


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
