"""What INV-INIT-CONFIG-001 says of the keys of a GGUF file, and which of its tokens no embedding has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from apr.errors import shell_word
from apr.gates.facts import InitFacts
from apr.gates.finding import Finding, Status
from apr.identity.types import Naming

_NO_STAMP = "convert the model again, or get an intact copy: a stamp keeps the type of a key, which is the wrong one"
_TOKEN_PREFIX, _TOKEN_ENDING = "tokenizer.ggml.", "_token_id"

NO_TOKEN = frozenset({-1, 0xFFFF_FFFF})
"""What writers put where there is no such token; llama.cpp passes over it."""

ENDS_OF_TEXT = frozenset({"bos", "eos"})
"""Tokens that stand in every text; without them llama.cpp takes others of the same numbers in every model."""


def key_findings(facts: InitFacts, config_id: str) -> Iterator[Finding]:
    """A refusal for each key that no model can be computed with; none for other formats."""
    if facts.checkpoint is None or facts.config is None or facts.config.architecture.naming is not Naming.GGUF:
        return
    from apr.identity.gguf_keys import key_faults

    for fault in key_faults(facts.checkpoint, facts.config.architecture.model_type, facts.config.values):
        stamp = stamp_line(facts, fault.settings)
        meant = ", with the value the model was trained with" if any("VALUE" in each for each in fault.settings) else ""
        yield Finding(
            config_id,
            Status.REFUSE,
            f"the key {fault.key} {fault.message}: {fault.found}",
            expected=fault.expected,
            found=fault.found,
            remedy=f"{stamp}{meant}" if fault.settings else _NO_STAMP,
        )


def stamp_line(facts: InitFacts, settings: Iterable[str]) -> str:
    """The command that sets keys of the file where it stands."""
    given = " ".join(f"--set {shell_word(each)}" for each in settings)
    return f"apr stamp {shell_word(facts.local_path)} {given} --in-place"


def token_findings(facts: InitFacts, rows: int, fits_id: str) -> Iterator[Finding]:
    """Special tokens of a GGUF file that the model has no embedding for."""
    if facts.config is None or facts.config.architecture.naming is not Naming.GGUF or facts.checkpoint is None:
        return
    for key, value in facts.checkpoint.metadata.items():
        if not key.startswith(_TOKEN_PREFIX) or not key.endswith(_TOKEN_ENDING):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value in NO_TOKEN or 0 <= value < rows:
            continue
        name = key[len(_TOKEN_PREFIX) : -len(_TOKEN_ENDING)]
        is_needed = name in ENDS_OF_TEXT
        yield Finding(
            fits_id,
            Status.REFUSE if is_needed else Status.UNCHECKED,
            f"the key {key} names a token that the model has no embedding for"
            + ("" if is_needed else f", {value:,} of {rows:,}; llama.cpp passes over it and takes its own"),
            expected=f"an id below {rows:,}, the rows of the embedding",
            found=f"{value:,}",
            remedy=f"{stamp_line(facts, (f'{key}=ID',))}, with the id of the tokenizer the model was trained with",
        )
