"""Whether tokenizer, sequence length and model fit one another, before a corpus is read or a step is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError, UsageError
from apr.gates.finding import Finding, Status
from apr.training.causality import check_causality
from apr.training.options import PretrainOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY_ID = "FALSIFY-APR-PRETRAIN-ARCH-009"


def check_rows(options: PretrainOptions, tokenizer_rows: int, rows: int) -> None:
    """Raise unless the embedding of `rows` has a row for every id of the tokenizer and is of the size asked for."""
    asked = options.vocabulary_size
    if asked is not None and asked != rows:
        raise UsageError(
            "--vocab-size is not the model's",
            expected=f"{rows}, the rows of its embedding",
            found=str(asked),
            remedy="leave --vocab-size out",
        )
    if tokenizer_rows > rows:
        raise RefusedError(
            "the tokenizer can produce ids that the model has no embedding for",
            where=str(options.tokenizer),
            expected=f"at most {rows:,} tokens, the rows of the embedding",
            found=f"{tokenizer_rows:,} tokens",
            remedy="use the model's own tokenizer, or a larger --vocab-size from scratch",
            invariant=VOCABULARY_ID,
        )


def check_positions(options: PretrainOptions, config: dict[str, Any]) -> None:
    """Raise when the windows are longer than the positions the model has."""
    positions = next((config[key] for key in ("max_position_embeddings", "n_positions") if config.get(key)), None)
    if isinstance(positions, int) and options.sequence_length > positions:
        raise UsageError(
            "--seq-length is longer than the model has positions",
            expected=f"at most {positions}",
            found=str(options.sequence_length),
            remedy=f"--seq-length {positions}",
        )


def causal(model: PreTrainedModel) -> Finding:
    """The finding that no position sees a later one; RefusedError when one does."""
    finding = check_causality(model)
    if finding.status is Status.REFUSE:
        raise RefusedError(
            finding.message,
            expected=finding.expected,
            found=finding.found,
            remedy=finding.remedy,
            invariant=finding.id,
            findings=(finding.to_json(),),
        )
    return finding


def causal_from_scratch(model: PreTrainedModel) -> Finding:
    """As `causal`, where a model built from the user's own dimensions may turn out not to run at all."""
    try:
        return causal(model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{type(model).__name__} does not run with this config",
            found=f"{type(error).__name__}: {error}"[:300],
            remedy="correct the dimensions in --set or --config",
        ) from error
