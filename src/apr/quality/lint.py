"""What a checkpoint still lacks before it is published: advice, one issue for each thing to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from apr.errors import AprError, RefusedError, shell_word, shortened
from apr.formats.base import Checkpoint, Format
from apr.identity.types import Verdict, VerdictKind
from apr.identity.verdict import give_verdict
from apr.quality.facts import model_rows, text_stamp
from apr.quality.tokenizer import recorded_tokenizer
from apr.stamping.licenses import MODEL_LICENSE_WORDS, canonical_license, checked_source


class Level(StrEnum):
    """An error is untrue or broken, a warning is missed by readers, the rest is good to know."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Issue(NamedTuple):
    """One thing to do. suggestion: the command or action that does it."""

    level: Level
    category: str
    message: str
    suggestion: str

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "level": self.level.value}


def lint_checkpoint(checkpoint: Checkpoint) -> list[Issue]:
    """Every issue of `checkpoint`, from headers alone, the heaviest first."""
    verdict = give_verdict(checkpoint)
    rules: tuple[Callable[[Checkpoint, Verdict], Iterator[Issue]], ...] = (
        _integrity,
        _identity,
        _provenance,
        _tokenizer,
        _records,
    )
    issues = [issue for rule in rules for issue in rule(checkpoint, verdict)]
    return sorted(issues, key=lambda issue: list(Level).index(issue.level))


def _integrity(checkpoint: Checkpoint, _: Verdict) -> Iterator[Issue]:
    for problem in checkpoint.problems:
        level = Level.INFO if problem.is_harmless else Level.ERROR
        yield Issue(level, "Integrity", f"{problem.what} ({problem.where})", "fetch or write the file again")


def _identity(checkpoint: Checkpoint, verdict: Verdict) -> Iterator[Issue]:
    stamp = f"{_command(checkpoint)} --auto --in-place"
    if verdict.claim.disagreements:
        yield Issue(Level.ERROR, "Identity", "the stamps contradict each other", stamp)
    if verdict.kind is VerdictKind.CONTRADICTION:
        yield Issue(Level.ERROR, "Identity", verdict.reasons[0], stamp)
    elif verdict.claim.unknown:
        names = ", ".join(repr(each.value) for each in verdict.claim.unknown)
        yield Issue(Level.WARN, "Identity", f"{names} is no architecture that is known", stamp)
    elif verdict.claim.architecture is None:
        yield Issue(Level.WARN, "Identity", "it does not say what architecture it is", stamp)
    if checkpoint.format is Format.GGUF:
        yield from _keys(checkpoint, verdict)
    elif checkpoint.config is None:
        remedy = "import it from its Hugging Face directory (apr import), which keeps the config"
        yield Issue(Level.WARN, "Identity", "no full config is recorded, so constants have to be guessed", remedy)


def _keys(checkpoint: Checkpoint, verdict: Verdict) -> Iterator[Issue]:
    """Keys of a GGUF file that its architecture needs and nobody wrote, and those that its tensors contradict."""
    from apr.identity.config import resolve_config
    from apr.identity.gguf_keys import key_faults

    if verdict.claim.architecture is None:
        return
    try:
        config = resolve_config(checkpoint, verdict.claim.architecture)
    except AprError as error:
        yield Issue(Level.ERROR, "Identity", f"{error.what} ({error.where})", "correct the key")
        return
    for line in config.conflicts:
        yield Issue(Level.ERROR, "Identity", line, "correct the key, or get the file that goes with it")
    for key in config.missing:
        suggestion = f"{_command(checkpoint)} --set {shell_word(key)}=VALUE --in-place"
        yield Issue(Level.WARN, "Identity", f"{key} is recorded nowhere, so readers have to guess it", suggestion)
    for fault in key_faults(checkpoint, verdict.claim.architecture.model_type, config.values):
        settings = " ".join(f"--set {shell_word(each)}" for each in fault.settings)
        suggestion = f"{_command(checkpoint)} {settings} --in-place" if settings else "convert the model again"
        message = f"the key {fault.key} {fault.message}: expected {fault.expected}, found {fault.found}"
        yield Issue(Level.ERROR, "Identity", message, suggestion)


def _provenance(checkpoint: Checkpoint, _: Verdict) -> Iterator[Issue]:
    for key, option, what in (
        ("license", "--license", "a licence"),
        ("data_source", "--data-source", "what data it was trained on"),
        ("data_license", "--data-license", "the licence of its training data"),
    ):
        value = text_stamp(checkpoint, key)
        word = "TEXT" if key == "data_source" else "SPDX"
        suggestion = f"{_command(checkpoint)} {option} {word} --in-place"
        if value is None:
            yield Issue(Level.WARN, "Metadata", f"it does not say {what}", suggestion)
            continue
        if key != "data_source" and value.lower() in MODEL_LICENSE_WORDS:
            continue
        check = checked_source if key == "data_source" else canonical_license
        try:
            check(value, option=option)
        except RefusedError as error:
            yield Issue(Level.WARN, "Metadata", f"{key} = {shortened(repr(value), 200)}: {error.what}", suggestion)


def _tokenizer(checkpoint: Checkpoint, verdict: Verdict) -> Iterator[Issue]:
    if checkpoint.format is Format.SAFETENSORS:
        return
    problem = recorded_tokenizer(checkpoint, model_rows(checkpoint, verdict)).problem
    if problem is None:
        return
    suggestion = f"{_command(checkpoint)} --tokenizer DIR --in-place"
    if checkpoint.format is Format.GGUF:
        suggestion = "convert the model again together with its tokenizer"
    yield Issue(Level.WARN, "Tokenizer", problem, suggestion)


def _records(checkpoint: Checkpoint, _: Verdict) -> Iterator[Issue]:
    if checkpoint.format is Format.GGUF:
        return  # No run starts from one, and nothing that starts one reads such records of it.
    recorded = checkpoint.recorded
    again = "write it with apr (apr import, apr pretrain), which records this"
    if not recorded.tensor_digests:
        yield Issue(Level.INFO, "Records", "no digests of its tensors are recorded", again)
    if recorded.training is None or recorded.training.validation_loss is None:
        yield Issue(Level.INFO, "Records", "no validation loss is recorded, so a run cannot check continuity", again)
    if recorded.probe is None:
        yield Issue(Level.INFO, "Records", "no probe is recorded, so behaviour cannot be replayed", again)


def _command(checkpoint: Checkpoint) -> str:
    return f"apr stamp {shell_word(checkpoint.path)}"
