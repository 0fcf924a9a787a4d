"""The data file of the atlas: an index, then the entries of each model type, every head told by what sets it apart."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from apr.identity.packed import DataFile, without_prefix

Entry = dict[str, Any]

SHARED_KEYS = ("base_prefix", "defaults", "aliases", "derived", "fixed", "rope", "texts", "note", "exact", "labels")
"""What a head leaves out when it is as in the entry it is told by."""


def pack(entries: Sequence[Entry], source: str) -> bytes:
    """The data file, the same bytes every time: gzip members, the first for the index, one for each model type.

    A reader takes the index and the members of the model types that it needs; `zcat` shows everything, one JSON
    document in each line.
    """
    for entry in entries:
        if not entry.get("tensors"):
            entry.setdefault("absent", entry.get("note"))
    present = [_named_only(entry) if "absent" in entry else entry for entry in entries]
    hosts: dict[str, int] = {}
    lines, rows = [], []
    patterns: dict[str, int] = {}
    for at, entry in enumerate(present):
        host = hosts.setdefault(entry["model_type"], at)
        lines.append(entry if host == at else _told_by(present[host], host, entry))
        rows.append([entry["class"], entry["model_type"], entry["kind"], *_pattern_sets(entry, patterns)])
    runs = [[at for at, _ in run] for _, run in groupby(enumerate(present), key=lambda item: item[1]["model_type"])]
    members = [_member(lines[at] for at in run) for run in runs]
    head = {
        "source": source,
        "absent": {
            f"{entry['model_type']}/{entry['class']}": entry["absent"] for entry in entries if "absent" in entry
        },
        "patterns": list(patterns),
        "members": [[run[0], len(member)] for run, member in zip(runs, members, strict=True)],
        "index": rows,
    }
    return _member([head]) + b"".join(members)


def kept_entries(packed: bytes, wanted: Collection[tuple[str, str]]) -> list[Entry]:
    """The entries of a data file whose (class name, model type) is wanted, as they were before they were packed."""
    data = DataFile(packed)
    kept = []
    for at, (class_name, model_type, *_) in enumerate(data.head["index"]):
        if (class_name, model_type) in wanted:
            entry = {key: value for key, value in data.document(at).items() if key not in ("of", "lacks", "bare")}
            reason = data.head["absent"].get(f"{model_type}/{class_name}")
            kept.append(entry if reason is None else {**entry, "absent": reason})
    return kept


def _member(lines: Iterable[Any]) -> bytes:
    text = "".join(json.dumps(line, separators=(",", ":"), sort_keys=True) + "\n" for line in lines)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def _pattern_sets(entry: Mapping[str, Any], patterns: dict[str, int]) -> tuple[list[int], list[int]]:
    """Places of the name patterns the entry must have, and of those it can have besides."""
    required, possible = set(), set()
    for row in entry["tensors"]:
        place = patterns.setdefault(digit_pattern(row[0]), len(patterns))
        (required if is_certain(row) else possible).add(place)
    return sorted(required), sorted(possible - required)


def _told_by(host: Mapping[str, Any], at: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` as what sets it apart from `host`, the entry at place `at`.

    The keys are those of `apr.identity.packed.whole_entry`, which makes it whole again.
    """
    own = [json.dumps(row, sort_keys=True) for row in entry["tensors"]]
    prefix = f"{host['base_prefix']}." if host["base_prefix"] else ""
    best: tuple[int, str, list[int], list[Any]] | None = None
    for bare in dict.fromkeys(("", prefix)):
        shared = [json.dumps(without_prefix(row, bare), sort_keys=True) for row in host["tensors"]]
        lacks = [place for place, row in enumerate(shared) if row not in own]
        more = [json.loads(row) for row in own if row not in shared]
        if best is None or len(more) < best[0]:
            best = (len(more), bare, lacks, more)
    assert best is not None
    _, bare, lacks, more = best
    told: dict[str, Any] = {key: entry[key] for key in ("class", "model_type", "kind")}
    told |= {key: entry[key] for key in SHARED_KEYS if entry.get(key) != host.get(key)}
    return {**told, "of": at, "lacks": lacks, "tensors": more, **({"bare": bare} if bare else {})}


def _named_only(entry: Entry) -> Entry:
    """A class that no small config builds: in the vocabulary, but nothing is known of its tensors."""
    nothing_known: Entry = {
        "exact": False,
        "note": entry["absent"],
        "base_prefix": "",
        "rope": None,
        "defaults": {},
        "aliases": {},
        "derived": [],
        "fixed": [],
        "texts": {},
        "tensors": [],
    }
    return {**{key: entry[key] for key in ("class", "model_type", "kind")}, **nothing_known}


def is_certain(row: Sequence[Any]) -> bool:
    """Whether every file of the class has the tensors of this row."""
    extra = row[2] if len(row) > 2 else {}
    return not any(extra.get(key) for key in ("when", "where", "tied", "optional"))


def digit_pattern(pattern: str) -> str:
    """A name or pattern with every number and every loop written `#`."""
    return ".".join(
        "#" if part.isdigit() or (part.startswith("{") and part.endswith("}")) else part for part in pattern.split(".")
    )
