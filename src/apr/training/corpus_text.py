"""Are the ids text of this tokenizer, and does the model know them all?"""

from __future__ import annotations

from apr.errors import shell_word
from apr.gates.finding import Finding, Status
from apr.training.corpus_facts import CorpusFacts

TOKENIZER_ID = "INV-CORPUS-TOKENIZER-001"
RANGE_ID = "INV-CORPUS-RANGE-001"
UNKNOWN_ID = "INV-CORPUS-UNKNOWN-001"
ENTROPY_ID = "INV-CORPUS-ENTROPY-001"
DENSITY_ID = "INV-CORPUS-DENSITY-001"
END_ID = "INV-CORPUS-EOD-001"

# Thresholds: far outside anything a working encoder gives on text, so a refusal means damage (`docs/training.md`).
LARGEST_UNKNOWN_RATIO = 0.05
SMALLEST_ENTROPY_BITS = 2.0
LARGEST_BYTES_PER_TOKEN = 16.0
LARGEST_INFLATION = 1.25


def check_tokenizer(facts: CorpusFacts) -> Finding:
    """The corpus names the tokenizer it was encoded with, and it is the one of the run."""
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
            remedy=f"--tokenizer {shell_word(facts.directory / 'tokenizer')}, or {facts.encode_again}",
        )
    return Finding(TOKENIZER_ID, Status.PASS, "the corpus was encoded with this tokenizer, by hash of its output")


def check_range(facts: CorpusFacts) -> Finding:
    """No id of either side lies beyond the embedding."""
    largest = max(side.scan.largest_id or 0 for side in facts.sides)
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


def check_unknown(facts: CorpusFacts) -> Finding:
    """The text was not lost in unknown tokens."""
    if facts.unknown is None:
        return Finding(UNKNOWN_ID, Status.PASS, "the tokenizer has no unknown token: every text has an encoding")
    ratio = facts.training.scan.occurrences(facts.unknown.id) / max(1, facts.training.scan.tokens)
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


def check_entropy(facts: CorpusFacts) -> Finding:
    """The ids of the corpus are not a few ids over and over."""
    bits = facts.training.scan.entropy_bits_without(facts.end.id if facts.end is not None else None)
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


def check_density(facts: CorpusFacts) -> Finding:
    """A sample, decoded and encoded again, takes as many ids as it did, of a plausible length in bytes."""
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


def check_end(facts: CorpusFacts) -> Finding:
    """Documents end with the tokenizer's own token, as often as the manifest says."""
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
    row = facts.training.row
    count = facts.training.scan.occurrences(recorded)
    if row is not None and not facts.training.scan.unread and count < row.eos_tokens:
        message = "end-of-document tokens are missing from the shards"
        return Finding(END_ID, Status.REFUSE, message, str(row.eos_tokens), str(count), facts.encode_again)
    return Finding(END_ID, Status.PASS, f"{count} documents end with {wanted}")
