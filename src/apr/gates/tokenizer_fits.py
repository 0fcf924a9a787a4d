"""FALSIFY-APR-PRETRAIN-ARCH-009 and -010: the tokenizer fits the embedding and is the one the weights learned with."""

from __future__ import annotations

from collections.abc import Iterable

from apr.errors import shell_word
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.gguf_keys import token_findings
from apr.gates.words import vocabulary_size

FITS_ID = "FALSIFY-APR-PRETRAIN-ARCH-009"
SAME_ID = "FALSIFY-APR-PRETRAIN-ARCH-010"


def _check_fits(facts: InitFacts) -> Iterable[Finding]:
    rows = vocabulary_size(facts)
    if rows is not None:
        yield from token_findings(facts, rows, FITS_ID)
    sizes = _tokenizer_sizes(facts)
    if rows is None or not sizes:
        note = facts.checkpoint.tokenizer_note if facts.checkpoint is not None else None
        unread = note or "no tokenizer is recorded or given"
        reason = "the model's vocabulary is not known" if rows is None else unread
        yield Finding(FITS_ID, Status.UNCHECKED, reason)
        return
    for place, size in sizes:
        if size > rows:
            yield Finding(
                FITS_ID,
                Status.REFUSE,
                f"the tokenizer ({place}) can produce ids that the model has no embedding for",
                expected=f"at most {rows:,} tokens, the rows of the embedding",
                found=f"{size:,} tokens",
                remedy="use the tokenizer this checkpoint was trained with",
            )
        else:
            yield Finding(FITS_ID, Status.PASS, f"{size:,} tokens ({place}) fit {rows:,} embedding rows")


def _tokenizer_sizes(facts: InitFacts) -> list[tuple[str, int]]:
    sizes = []
    if facts.tokenizer is not None:
        sizes.append((facts.tokenizer.place, facts.tokenizer.vocabulary_size))
    if facts.checkpoint is not None and facts.checkpoint.tokenizer_vocabulary_size is not None:
        sizes.append(("recorded in the checkpoint", facts.checkpoint.tokenizer_vocabulary_size))
    return sizes


def _check_same(facts: InitFacts) -> Iterable[Finding]:
    recorded = _recorded_hash(facts)
    given = facts.tokenizer
    if recorded is None or given is None or given.output_hash is None:
        missing = "the checkpoint records no tokenizer" if recorded is None else "no tokenizer was given to compare"
        yield Finding(SAME_ID, Status.UNCHECKED, missing)
    elif recorded == given.output_hash:
        yield Finding(SAME_ID, Status.PASS, "the tokenizer turns text into the same ids as the recorded one")
    else:
        yield Finding(
            SAME_ID,
            Status.REFUSE,
            "the tokenizer turns text into other ids than the one the weights were trained with",
            expected=f"output hash {recorded}",
            found=f"output hash {given.output_hash} ({given.place})",
            remedy=f"apr export {shell_word(facts.local_path)} --format hf -o DIR, "
            "then encode the corpus with the tokenizer in DIR",
        )


def _recorded_hash(facts: InitFacts) -> str | None:
    training = facts.checkpoint.recorded.training if facts.checkpoint is not None else None
    if training is not None and training.tokenizer_hash is not None:
        return training.tokenizer_hash
    return facts.embedded_tokenizer_hash


FITS = Gate(FITS_ID, "the tokenizer's vocabulary fits the model", Stage.HEADERS, _check_fits)
SAME = Gate(SAME_ID, "the tokenizer is the recorded one, by its output", Stage.HEADERS, _check_same)
