"""One tensor with several names, stored under another of them than its class writes.

Tied tensors are one tensor, and a file holds it once. transformers writes it under the name that its class ties the
others to (`model.embed_tokens.weight`), `safetensors.torch.save_model` under the first in the alphabet
(`lm_head.weight`). The zoo's own loader fills each from the other where the config ties them (transformers 5.23,
`PreTrainedModel.tie_weights`: "tying is symmetric"), and so does the plan; where the config says untied, neither does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from apr.errors import AprError
from apr.identity.entries import Entry, condition_holds, resolve_fields
from apr.identity.types import ExpectedTensor

TIE_FLAG = "tie_word_embeddings"
"""The field of a config that ties the head to the embedding."""


def stands_for(ties: Iterable[tuple[str, str]], stored: Collection[str]) -> dict[str, str]:
    """Stored name to the name it stands for: of every tie whose kept name the file lacks, the first other one it has.

    ties: (name, the name its class keeps).
    """
    found: dict[str, str] = {}
    for name, kept in ties:
        if name in stored and kept not in stored and kept not in found.values():
            found[name] = kept
    return found


def expected_ties(expected: Mapping[str, ExpectedTensor], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, kept name) of the tied tensors of a model; none where its config (`values`) says untied."""
    if values.get(TIE_FLAG) is False:
        return []
    return [(name, each.tied_to) for name, each in expected.items() if each.tied_to is not None]


def entry_ties(entry: Entry, config: Mapping[str, Any], stored: Collection[str]) -> list[tuple[str, str]]:
    """(name, kept name) of the ties that `entry` has under `config`, of those where the file has the one and lacks the
    other; none where the config cannot be used."""
    ties = [
        (each, each.tied_to)
        for each in entry.templates
        if each.tied_to is not None and not each.loops and each.pattern in stored and each.tied_to not in stored
    ]
    if not ties:
        return []
    try:
        fields = resolve_fields(entry, config)
    except AprError:
        return []
    if fields.get(TIE_FLAG) is False:
        return []
    return [(template.pattern, kept) for template, kept in ties if condition_holds(template.when, fields)]
