"""One pass over token shards: what is really in them, whatever the manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr.errors import InputOutputError
from apr.training.corpus_statistics import unigram_entropy_bits
from apr.training.windows import Shard

if TYPE_CHECKING:
    import numpy
    from tokenizers import Tokenizer

CHUNK_TOKENS = 4 << 20
# Shards beyond this are hashed and counted by no start of a run; ids are still checked batch by batch.
SCAN_LIMIT_BYTES = 8 << 30
SAMPLE_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class ShardScan:
    """One shard as read. blake3: hex of its bytes; largest_id: None for an empty shard."""

    shard: Shard
    blake3: str
    largest_id: int | None


@dataclass(frozen=True)
class CorpusScan:
    """Everything seen in one pass. counts: occurrences per id (ids beyond the counted range share the last cell).

    sample: the first ids of the corpus. unread: shards beyond SCAN_LIMIT_BYTES, not read.
    """

    shards: tuple[ShardScan, ...]
    counts: numpy.ndarray
    sample: numpy.ndarray
    unread: tuple[Shard, ...]

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    @property
    def largest_id(self) -> int | None:
        return max((scan.largest_id for scan in self.shards if scan.largest_id is not None), default=None)

    def occurrences(self, token_id: int) -> int:
        return int(self.counts[token_id]) if token_id < len(self.counts) - 1 else 0

    def entropy_bits_without(self, token_id: int | None) -> float:
        """Unigram entropy in bits per token, the end-of-document token left out."""
        counts = self.counts.copy()
        if token_id is not None and token_id < len(counts):
            counts[token_id] = 0
        return unigram_entropy_bits(counts)


def scan_shards(shards: Sequence[Shard], counted_ids: int, limit_bytes: int = SCAN_LIMIT_BYTES) -> CorpusScan:
    """Read `shards` in order until `limit_bytes`; ids below `counted_ids` are counted one by one."""
    import numpy

    counts = numpy.zeros(counted_ids + 1, dtype=numpy.int64)
    scans: list[ShardScan] = []
    sample: list[numpy.ndarray] = []
    sampled = bytes_left = 0
    bytes_left = limit_bytes
    unread: list[Shard] = []
    for shard in shards:
        size_bytes = shard.tokens * 4
        if size_bytes > bytes_left:
            unread.append(shard)
            continue
        bytes_left -= size_bytes
        scans.append(_scan(shard, counts))
        if sampled < SAMPLE_TOKENS and shard.tokens:
            part = numpy.fromfile(shard.path, dtype="<u4", count=SAMPLE_TOKENS - sampled)
            sample.append(part)
            sampled += len(part)
    joined = numpy.concatenate(sample) if sample else numpy.empty(0, dtype="<u4")
    return CorpusScan(tuple(scans), counts, joined, tuple(unread))


def _scan(shard: Shard, counts: numpy.ndarray) -> ShardScan:
    import numpy
    from blake3 import blake3

    digest, largest = blake3(max_threads=blake3.AUTO), None
    try:
        with shard.path.open("rb") as file:
            while content := file.read(CHUNK_TOKENS * 4):
                digest.update(content)
                ids = numpy.frombuffer(content, dtype="<u4")
                largest = max(int(ids.max()), largest or 0)
                counts += numpy.bincount(numpy.minimum(ids, len(counts) - 1), minlength=len(counts))
    except OSError as error:
        raise InputOutputError(f"cannot read the shard: {error.strerror}", where=str(shard.path)) from error
    return ShardScan(shard, digest.hexdigest(), largest)


@dataclass(frozen=True, slots=True)
class TextSample:
    """A sample of ids turned back into text. reencoded_tokens: ids that the tokenizer itself makes of that text."""

    tokens: int
    text_bytes: int
    reencoded_tokens: int

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / self.tokens

    @property
    def inflation(self) -> float:
        """How many ids the corpus spends for one of the tokenizer's own; 1.0 for text encoded by it."""
        return self.tokens / max(1, self.reencoded_tokens)


def sample_text(sample: numpy.ndarray, tokenizer: Tokenizer, special_ids: Sequence[int]) -> TextSample | None:
    """Decode `sample` without the special ids and encode it again; None when nothing is left to decode."""
    import numpy

    plain = sample[~numpy.isin(sample, numpy.asarray(special_ids, dtype=sample.dtype))]
    known = plain[plain < tokenizer.get_vocab_size(with_added_tokens=True)]
    if len(known) == 0:
        return None
    text = tokenizer.decode([int(token) for token in known], skip_special_tokens=False)
    again = tokenizer.encode(text, add_special_tokens=False).ids
    return TextSample(len(known), len(text.encode("utf-8", "replace")), len(again))
