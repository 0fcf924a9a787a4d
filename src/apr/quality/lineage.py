"""The chain of parents of a checkpoint: each link names its parent by weights digest, and is verified by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from apr.errors import AprError
from apr.formats.base import Checkpoint

LONGEST_CHAIN = 1000
CHECKPOINT_PATTERNS = ("*.apr", "*.safetensors", "config.json", "ckpt/*.apr")


class LinkStatus(StrEnum):
    """START: the checkpoint asked about. ORIGIN follows from no recorded parent, and is told by the link before."""

    START = "start"
    VERIFIED = "verified"
    MISMATCH = "mismatch"
    NOT_FOUND = "not found"
    CYCLE = "cycle"


@dataclass(frozen=True, slots=True)
class Link:
    """One checkpoint of the chain. `status` is about its digest against the one that its child recorded.

    weights_digest: recorded in the file, or computed from its bytes (`is_computed`). None when the file is missing.
    """

    path: str
    status: LinkStatus
    detail: str
    weights_digest: str | None
    is_computed: bool
    parent_digest: str | None
    parent_path: str | None
    step: int | None
    validation_loss: float | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"status": self.status.value}


def trace_lineage(path: Path, *, search: Iterable[Path] = (), deep: bool = False) -> Iterator[Link]:
    """The links from `path` up to an origin or a break, nearest first.

    search: directories to look in for a parent that is no longer where the record says. deep: compute every digest
    from the bytes, also where the file records one. Raises AprError when `path` itself cannot be read.
    """
    from apr.formats.registry import open_checkpoint

    seen: set[str] = set()
    expected: str | None = None
    here: Path | None = path
    directories = tuple(search)
    while here is not None and len(seen) <= LONGEST_CHAIN:
        with open_checkpoint(here) as checkpoint:
            digest, is_computed = _digest_of(checkpoint, deep)
            link = _link(checkpoint, digest, is_computed, expected)
        yield link
        if link.status is LinkStatus.MISMATCH or link.parent_digest is None:
            return
        if link.parent_digest in seen:
            yield _break(link, LinkStatus.CYCLE, "the chain comes back to a checkpoint it already passed")
            return
        seen.add(link.parent_digest)
        expected = link.parent_digest
        parent = _find_parent(link, here, directories)
        if parent is None:
            yield _break(link, LinkStatus.NOT_FOUND, "no checkpoint stands there (--search DIR looks elsewhere)")
        here = parent


def _link(checkpoint: Checkpoint, digest: str, is_computed: bool, expected: str | None) -> Link:
    training = checkpoint.recorded.training
    origin = "computed from its bytes" if is_computed else "as it records"
    if expected is None:
        status, detail = LinkStatus.START, f"weights digest {origin}"
    elif digest == expected:
        status, detail = LinkStatus.VERIFIED, f"weights digest {origin} is the one its child recorded"
    else:
        status, detail = LinkStatus.MISMATCH, f"its child started from {expected}, these weights are {digest}"
    return Link(
        path=str(checkpoint.path),
        status=status,
        detail=detail,
        weights_digest=digest,
        is_computed=is_computed,
        parent_digest=None if training is None else training.parent_digest,
        parent_path=None if training is None else training.parent_path,
        step=None if training is None else training.step,
        validation_loss=None if training is None else training.validation_loss,
    )


def _break(child: Link, status: LinkStatus, detail: str) -> Link:
    path = child.parent_path or "(no path recorded)"
    return Link(path, status, detail, child.parent_digest, False, None, None, None, None)


def _digest_of(checkpoint: Checkpoint, deep: bool) -> tuple[str, bool]:
    recorded = checkpoint.recorded.weights_digest
    if recorded is not None and not deep:
        return recorded, False
    from apr.gates.road import examine_opened
    from apr.loading.digest import weights_digest
    from apr.loading.plan import counted_names
    from apr.loading.values import read_values

    counted = counted_names(checkpoint, examine_opened(checkpoint).facts.plan)
    facts = read_values(checkpoint.tensors[name] for name in counted)
    return weights_digest(fact.digest for fact in facts.values()), True


def _find_parent(link: Link, child: Path, directories: tuple[Path, ...]) -> Path | None:
    """The recorded path if it exists (as given, then beside the child), else the wanted digest in `directories`."""
    if link.parent_path is not None:
        for candidate in (Path(link.parent_path), child.parent / link.parent_path):
            if candidate.exists():
                return candidate
    for directory in directories:
        for pattern in CHECKPOINT_PATTERNS:
            for found in sorted(directory.rglob(pattern)):
                candidate = found.parent if found.name == "config.json" else found
                if candidate != child and _records(candidate, link.parent_digest):
                    return candidate
    return None


def _records(path: Path, digest: str | None) -> bool:
    from apr.formats.registry import open_checkpoint

    try:
        with open_checkpoint(path) as checkpoint:
            return _digest_of(checkpoint, deep=False)[0] == digest
    except AprError:
        return False
