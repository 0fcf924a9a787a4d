"""The claim: every stamp of a checkpoint read once into the closed vocabulary of the atlas.

Normalised exactly (case and separators do not count), never tested by a prefix: `Qwen2ForCausalLM`, `qwen2`,
`Qwen2` and `QWEN_2` are the same model type, `qwen2moe` is another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import combinations

from apr.formats.base import Checkpoint, Stamp
from apr.identity.atlas import load_atlas
from apr.identity.gguf_atlas import has_gguf_names
from apr.identity.types import Architecture, Claim

PLACEHOLDERS = frozenset(
    {"", "auto", "unknown", "model", "none", "null", "na", "tbd", "todo", "default", "generic", "other", "undefined"}
)
"""Normalised values that say nothing; upstream's import writes `Auto` when it was not told an architecture."""

OTHER_SPELLINGS: Mapping[str, str] = {
    "llama1": "llama",
    "llama2": "llama",
    "llama3": "llama",
    "llama31": "llama",
    "llama32": "llama",
    "llama33": "llama",
    "codellama": "llama",
    "tinyllama": "llama",
    "qwen15": "qwen2",
    "qwen25": "qwen2",
    "qwen25coder": "qwen2",
    "qwen3dense": "qwen3",
    "neox": "gpt_neox",
    "pythia": "gpt_neox",
    "phi15": "phi",
    "phi2": "phi",
    "phi35": "phi3",
    "phi4": "phi3",
    "gemma1": "gemma",
    "gemma3": "gemma3_text",
    "mistral7b": "mistral",
    "rwkv4": "rwkv",
    "mamba1": "mamba",
    "commandr": "cohere",
    "deepseek2": "deepseek_v2",
    "deepseek3": "deepseek_v3",
    "gptbigcode": "gpt_bigcode",
    "starcoder": "gpt_bigcode",
    "granitemoe": "granitemoe",
    "ernie45": "ernie4_5",
    "falconmamba": "falcon_mamba",
}
"""Spellings of upstream's options, GGUF's `general.architecture` (gguf 0.19 `MODEL_ARCH_NAMES`) and common speech,
normalised, where they differ from the model type of the zoo."""


def normalise(text: str) -> str:
    """`text` without case and separators: what two spellings of one name have in common."""
    return re.sub(r"[\s._\-/]+", "", text).casefold()


def read_claim(checkpoint: Checkpoint) -> Claim:
    """What the stamps of `checkpoint` say, each read into the vocabulary, with every contradiction among them.

    The vocabulary of a GGUF file is that of `general.architecture`.
    """
    in_gguf = has_gguf_names(checkpoint)
    readings: list[tuple[Stamp, tuple[Architecture, ...]]] = []
    unknown: list[Stamp] = []
    for stamp in checkpoint.stamps:
        if normalise(stamp.value) in PLACEHOLDERS:
            continue
        meanings = _gguf_meanings(stamp.value) if in_gguf else read_stamp(stamp.value)
        if meanings:
            readings.append((stamp, meanings))
        else:
            unknown.append(stamp)
    disagreements = tuple(
        (one, two) for (one, first), (two, second) in combinations(readings, 2) if not set(first) & set(second)
    )
    agreed = None if unknown or disagreements else _agreed([meanings for _, meanings in readings])
    return Claim(agreed, tuple(readings), tuple(unknown), disagreements)


def read_stamp(value: str) -> tuple[Architecture, ...]:
    """The architectures a stamp's value can mean, the one it means by itself first; empty when it is not known."""
    vocabulary = _vocabulary()
    word = normalise(value)
    return vocabulary.get(word) or vocabulary.get(normalise(OTHER_SPELLINGS.get(word, "")), ())


def _gguf_meanings(value: str) -> tuple[Architecture, ...]:
    from apr.identity.gguf_evidence import read_gguf_stamp

    return read_gguf_stamp(normalise(value))


def claimed_architectures(claim: Claim) -> tuple[Architecture, ...]:
    """All architectures that every reading of the claim allows; empty without an agreed claim."""
    return _common([meanings for _, meanings in claim.readings]) if claim.architecture is not None else ()


def _agreed(readings: list[tuple[Architecture, ...]]) -> Architecture | None:
    common = _common(readings)
    return common[0] if common else None


def _common(readings: Iterable[tuple[Architecture, ...]]) -> tuple[Architecture, ...]:
    rows = list(readings)
    if not rows:
        return ()
    narrowest = min(rows, key=len)
    return tuple(each for each in narrowest if all(each in row for row in rows))


@lru_cache(maxsize=1)
def _vocabulary() -> Mapping[str, tuple[Architecture, ...]]:
    words: dict[str, list[Architecture]] = {}
    for architecture in load_atlas().architectures:
        for name in (architecture.class_name, architecture.model_type):
            meanings = words.setdefault(normalise(name), [])
            if architecture not in meanings:
                meanings.append(architecture)
    return {word: tuple(meanings) for word, meanings in words.items()}
