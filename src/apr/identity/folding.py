"""Folding many tensor names into few: layers to ranges `{0–23}`, sibling names to alternatives `{q,k,v}`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

LONGEST_FOLDED = 512
MOST_COMPONENTS, MOST_NUMBERS = 32, 8
MOST_MERGED = 10_000
"""Beyond these a name, or a whole list of names, is not one that a model has, and folding it would take for ever.

Names of published models have at most 140 characters, 16 components and 3 numbers, and fold into some hundred groups.
"""

_ALTERNATIVES_SHOWN = 12
_LETTER_LAST = r"attn_[qkv]|ffn_(gate|up|down)"


def fold_names(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Names folded for a reader, with the count each one stands for, sorted by name.

    `model.layers.{0–23}.self_attn.{q,k,v}_proj.bias` with 72: numeric components become ranges (gaps shown as
    `{0–3,5}`), then names that differ in one word of one component become alternatives. No name is lost or counted
    twice; a name without siblings, or beyond the limits above, is returned as it is with count 1.
    """
    return _folded(tuple(names))


# One refusal shows the same names in several sentences.
@lru_cache(maxsize=8)
def _folded(names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    groups: dict[_Template, list[tuple[int, ...]]] = {}
    for name in dict.fromkeys(names):
        template, numbers = _split_numbers(name)
        groups.setdefault(template, []).append(numbers)
    folded: list[tuple[tuple[str, ...], int]] = []
    for template, rows in groups.items():
        folded.extend((_fill(template, columns), count) for columns, count in _fold_numbers(rows))
    if len(folded) <= MOST_MERGED:
        folded = _fold_alternatives(folded)
    return tuple(sorted((".".join(parts), count) for parts, count in folded))


_Template = tuple[str | None, ...]
"""The components of a name, None where a number stood."""


def _split_numbers(name: str) -> tuple[_Template, tuple[int, ...]]:
    if len(name) > LONGEST_FOLDED or name.count(".") >= MOST_COMPONENTS:
        return (name,), ()
    parts = name.split(".")
    template = tuple([None if _is_number(part) else part for part in parts])
    count = template.count(None)
    if not count:
        return tuple(parts), ()
    if count > MOST_NUMBERS:
        return (name,), ()
    return template, tuple([int(part) for part, kept in zip(parts, template, strict=True) if kept is None])


@lru_cache(maxsize=4096)
def _is_number(part: str) -> bool:
    """Whether `part` is a whole number as `str` writes it, of at most 12 digits."""
    return part.isdecimal() and part.isascii() and len(part) <= 12 and (part[0] != "0" or part == "0")


def _fold_numbers(rows: list[tuple[int, ...]]) -> list[tuple[tuple[str, ...], int]]:
    """Number rows as products of ranges: columns are folded from the last to the first, equal remainders together."""
    if not rows[0]:
        return [((), len(rows))]
    by_head: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        by_head.setdefault(row[:-1], []).append(row[-1])
    current: dict[tuple[tuple[str, ...], int], list[tuple[int, ...]]] = {}
    for head, tails in by_head.items():
        current.setdefault(((_range_text(tails),), len(tails)), []).append(head)
    for _ in range(len(rows[0]) - 1):
        following: dict[tuple[tuple[str, ...], int], list[tuple[int, ...]]] = {}
        for (texts, count), heads in current.items():
            by_shorter: dict[tuple[int, ...], list[int]] = {}
            for head in heads:
                by_shorter.setdefault(head[:-1], []).append(head[-1])
            for shorter, tails in by_shorter.items():
                key = ((_range_text(tails), *texts), count * len(tails))
                following.setdefault(key, []).append(shorter)
        current = following
    return [(texts, count) for texts, count in current]


def _range_text(numbers: list[int]) -> str:
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return str(ordered[0])
    pieces: list[str] = []
    start = previous = ordered[0]
    for number in [*ordered[1:], None]:
        if number is not None and number == previous + 1:
            previous = number
            continue
        pieces.append(str(start) if start == previous else f"{start}–{previous}")
        if number is not None:
            start = previous = number
    if len(pieces) > _ALTERNATIVES_SHOWN:
        pieces = [*pieces[: _ALTERNATIVES_SHOWN - 1], "…", pieces[-1]]
    return "{" + ",".join(pieces) + "}"


def _fill(template: _Template, columns: tuple[str, ...]) -> tuple[str, ...]:
    filled = iter(columns)
    return tuple(next(filled) if part is None else part for part in template)


def _fold_alternatives(folded: list[tuple[tuple[str, ...], int]]) -> list[tuple[tuple[str, ...], int]]:
    """Merge entries equal but for one component; rightmost components first, longest families first."""
    longest = max((len(parts) for parts, _ in folded), default=0)
    for distance in range(1, longest + 1):
        families: dict[tuple[object, ...], list[tuple[tuple[str, ...], int]]] = {}
        for parts, count in folded:
            at = len(parts) - distance
            key = (at, parts[:at], _stem(parts[at]), parts[at + 1 :], count) if at >= 0 else (parts,)
            families.setdefault(key, []).append((parts, count))
        folded = []
        for family in families.values():
            if len(family) == 1 or any("{" in parts[-distance] for parts, _ in family):
                folded.extend(family)
                continue
            words = [parts[-distance] for parts, _ in family]
            parts = (*family[0][0][: len(family[0][0]) - distance], _alternatives(words))
            tail = family[0][0][len(family[0][0]) - distance + 1 :]
            folded.append(((*parts, *tail), sum(count for _, count in family)))
    return folded


def _stem(part: str) -> str:
    """What siblings share: `q_proj` and `k_proj` are siblings, `weight` and `bias` are, `mlp` and `norm` are not.

    llama.cpp puts the letter last: `attn_q` and `attn_k` are siblings too.
    """
    if part in ("weight", "bias"):
        return "weight|bias"
    if re.fullmatch(_LETTER_LAST, part):
        return part[: part.index("_") + 1]
    head, separator, tail = part.rpartition("_")
    return separator + tail if head and re.fullmatch(r"[a-z0-9]+", head) else part


# The order in which people name the parts of a layer; other words keep the order they came in.
_SPOKEN_ORDER = {word: rank for rank, word in enumerate(("q", "k", "v", "o", "gate", "up", "down", "weight", "bias"))}


def _alternatives(words: list[str]) -> str:
    """`q_proj, k_proj, v_proj` as `{q,k,v}_proj`: the common tail after the last underscore stays outside."""
    if all(re.fullmatch(_LETTER_LAST, word) for word in words):
        head = words[0].partition("_")[0]
        ends = sorted((word.partition("_")[2] for word in words), key=_SPOKEN_ORDER.__getitem__)
        return f"{head}_{{{','.join(ends)}}}"
    words = sorted(words, key=lambda word: _SPOKEN_ORDER.get(word.partition("_")[0], len(_SPOKEN_ORDER)))
    tails = {word.rpartition("_")[2] for word in words}
    if len(tails) == 1 and all("_" in word for word in words):
        return "{" + ",".join(word.rpartition("_")[0] for word in words) + "}_" + tails.pop()
    return "{" + ",".join(words) + "}"
