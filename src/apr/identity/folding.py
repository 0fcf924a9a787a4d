"""Folding many tensor names into few: layers to ranges `{0–23}`, sibling names to alternatives `{q,k,v}`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ALTERNATIVES_SHOWN = 12
_LETTER_LAST = r"attn_[qkv]|ffn_(gate|up|down)"


def fold_names(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Names folded for a reader, with the count each one stands for, sorted by name.

    `model.layers.{0–23}.self_attn.{q,k,v}_proj.bias` with 72: numeric components become ranges (gaps shown as
    `{0–3,5}`), then names that differ in one word of one component become alternatives. No name is lost or counted
    twice; a name without siblings is returned as it is with count 1.
    """
    groups: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name in dict.fromkeys(names):
        template, numbers = _split_numbers(name)
        groups.setdefault(template, []).append(numbers)
    folded: list[tuple[tuple[str, ...], int]] = []
    for template, rows in groups.items():
        folded.extend((_fill(template, columns), count) for columns, count in _fold_numbers(rows))
    folded = _fold_alternatives(folded)
    return tuple(sorted((".".join(parts), count) for parts, count in folded))


def _split_numbers(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    parts = name.split(".")
    is_number = [part.isascii() and part.isdigit() and str(int(part[:12])) == part for part in parts]
    template = tuple("\0" if number else part for part, number in zip(parts, is_number, strict=True))
    return template, tuple(int(part) for part, number in zip(parts, is_number, strict=True) if number)


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


def _fill(template: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, ...]:
    filled = iter(columns)
    return tuple(next(filled) if part == "\0" else part for part in template)


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
