"""Which entries of the atlas explain all tensors of a file."""

from __future__ import annotations

from collections.abc import Callable

from apr.identity.atlas import Atlas
from apr.identity.entries import Entry
from apr.identity.matching import Account, match
from apr.identity.names import FileNames

CANONICAL = (
    *("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "opt", "bert", "mamba", "rwkv", "gemma", "gemma2"),
    *("phi", "phi3", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "olmo", "olmo2", "granite", "roberta", "bart"),
)
"""Model types that a group of name twins is named after, best known first."""


def explaining_entries(
    atlas: Atlas, names: FileNames, match: Callable[[Entry, FileNames], Account] = match
) -> tuple[list[Account], list[tuple[int, int]]]:
    """Accounts of the entries that explain everything, and the others as (distance in name patterns, place).

    Entries that the atlas only names are left out: nothing is known of their tensors.
    """
    ids = atlas.pattern_ids
    stored = {ids[pattern] for pattern in names.groups if pattern in ids}
    unknown = sum(pattern not in ids for pattern in names.groups)
    fitting, near = [], []
    for at, (required, others) in enumerate(atlas.pattern_rows):
        if not (required or others):
            continue
        # The lists of an entry have no place twice, so counting them spares making sets of them all.
        found = len(stored.intersection(required))
        distance = len(required) - found + len(stored) - found - len(stored.intersection(others)) + unknown
        if distance == 0:
            account = match(atlas.entry_at(at), names)
            if account.explains_all:
                fitting.append(account)
                continue
        near.append((distance, at))
    return fitting, sorted(near)
