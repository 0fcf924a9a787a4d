"""The tokenizer a stamp embeds: read lossless, and checked against the embedding and the recorded training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr.errors import MissingExtraError, RefusedError
from apr.formats.base import Checkpoint
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES, read_vocabulary
from apr.gates.finding import Finding, Status
from apr.gates.tokenizer_fits import FITS_ID, SAME_ID
from apr.identity.types import Verdict
from apr.loading.tokenizer import read_tokenizer_files, tokenizer_output_hash


def read_tokenizer(directory: Path | None) -> Mapping[str, bytes] | None:
    """The tokenizer files of `directory` by name; None without a directory. NotFoundError when it holds none."""
    if directory is None:
        return None
    known = {name: directory / name for name in TOKENIZER_FILE_NAMES}
    return {
        **read_tokenizer_files(directory),
        **{name: path.read_bytes() for name, path in known.items() if path.is_file()},
    }


def check_tokenizer(checkpoint: Checkpoint, files: Mapping[str, bytes] | None, verdict: Verdict) -> tuple[Finding, ...]:
    """What the gates say of the new tokenizer; RefusedError when the model has too few rows, or learned with another.

    Without the tokenizers library the comparison with the recorded training stays unchecked.
    """
    if files is None:
        return ()
    return (_check_size(checkpoint, files, verdict), *_check_same(checkpoint, files))


def _check_size(checkpoint: Checkpoint, files: Mapping[str, bytes], verdict: Verdict) -> Finding:
    vocabulary = read_vocabulary(files)
    rows = embedding_rows(checkpoint, verdict)
    if vocabulary is None or rows is None:
        reason = "the tokenizer files show no vocabulary" if vocabulary is None else "the model's rows are not known"
        return Finding(FITS_ID, Status.UNCHECKED, reason)
    message = f"{vocabulary.row_count:,} tokens for {rows:,} embedding rows"
    if vocabulary.row_count <= rows:
        return Finding(FITS_ID, Status.PASS, message)
    raise _refused(
        "the tokenizer can produce ids that the model has no embedding for",
        Finding(
            FITS_ID,
            Status.REFUSE,
            message,
            expected=f"at most {rows:,} tokens, the rows of the embedding",
            found=f"{vocabulary.row_count:,} tokens",
            remedy="use the tokenizer this checkpoint was trained with",
        ),
    )


def _check_same(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> tuple[Finding, ...]:
    training = checkpoint.recorded.training
    if training is None or training.tokenizer_hash is None:
        return ()
    try:
        output_hash = tokenizer_output_hash(files)
    except MissingExtraError as error:
        return (Finding(SAME_ID, Status.UNCHECKED, error.what),)
    if output_hash == training.tokenizer_hash:
        return (Finding(SAME_ID, Status.PASS, "the tokenizer turns text into the ids the weights were trained with"),)
    raise _refused(
        "the tokenizer is not the one the weights were trained with",
        Finding(
            SAME_ID,
            Status.REFUSE,
            "the tokenizer turns text into other ids than the recorded one",
            expected=f"output hash {training.tokenizer_hash}, as the training record says",
            found=f"output hash {output_hash}",
            remedy="use the tokenizer this checkpoint was trained with",
        ),
    )


def embedding_rows(checkpoint: Checkpoint, verdict: Verdict) -> int | None:
    """Rows of the input embedding: solved from the tensors, else as recorded; None when nobody knows."""
    for candidate in verdict.evidence.candidates:
        if "vocab_size" in candidate.dimensions:
            return candidate.dimensions["vocab_size"]
    recorded: list[Any] = [checkpoint.typed.get("vocab_size"), (checkpoint.config or {}).get("vocab_size")]
    return next((size for size in recorded if isinstance(size, int) and not isinstance(size, bool)), None)


def _refused(what: str, finding: Finding) -> RefusedError:
    return RefusedError(
        what,
        expected=finding.expected,
        found=finding.found,
        remedy=finding.remedy,
        invariant=finding.id,
        findings=(finding.to_json(),),
    )
