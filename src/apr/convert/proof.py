"""Proof that a written checkpoint holds the tensors it was made from: reopened from disk, digest by digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from apr.errors import DamagedFileError
from apr.formats.base import Checkpoint, IntegrityProblem, TensorEntry
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.writing import COPY_CHUNK_BYTES
from apr.storage.checksums import Blake3


class StoredTensor(NamedTuple):
    """What a tensor is on disk: dtype, row-major shape, and blake3 hex of its bytes."""

    dtype: DType
    shape: tuple[int, ...]
    blake3_hex: str


Report = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


def stored_tensors(entries: Iterable[TensorEntry], report: Report | None = None) -> dict[str, StoredTensor]:
    """Every tensor's dtype, shape and digest by name, read once in constant memory."""
    found: dict[str, StoredTensor] = {}
    for entry in entries:
        hasher = Blake3()
        for chunk in entry.stream(COPY_CHUNK_BYTES):
            hasher.update(chunk)
            if report is not None:
                report(len(chunk))
        found[entry.name] = StoredTensor(entry.dtype, entry.shape, hasher.hexdigest())
    return found


def check_intact(checkpoint: Checkpoint) -> None:
    """Raise DamagedFileError when a checksum or recorded digest of `checkpoint` does not hold; reads every byte.

    Writing a damaged file anew would give it valid checksums, and the damage could never be found again.
    """
    problems = checkpoint.verify_checksums()
    if problems:
        raise _damaged(f"the checkpoint is damaged in {len(problems)} places", problems)


def check_written(path: Path, expected: Mapping[str, StoredTensor], *, invariant: str) -> Checkpoint:
    """The checkpoint at `path`, open, after every byte was read again and holds exactly the `expected` tensors.

    The caller closes it. Raises DamagedFileError with `invariant` naming each tensor that differs.
    """
    checkpoint = open_checkpoint(path)
    try:
        found = stored_tensors(checkpoint.tensors.values())
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise DamagedFileError(
                f"{len(differing)} tensors were not written as they are; the result was not put in place",
                where=f"tensor {name}",
                expected=str(expected.get(name, "no such tensor")),
                found=str(found.get(name, "no such tensor")),
                remedy="look at the state of the disk and its memory, then run again; the source is unchanged",
                invariant=invariant,
            )
        problems = checkpoint.verify_checksums()
        if problems:
            raise _damaged("the written file does not verify; it was not put in place", problems)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _damaged(what: str, problems: tuple[IntegrityProblem, ...]) -> DamagedFileError:
    first = problems[0]
    return DamagedFileError(
        f"{what}: {first.what}",
        where=first.where,
        expected=first.expected,
        found=first.found,
        remedy="fetch or write the file again from an intact source",
        invariant="INV-FILE-INTEGRITY-001",
        facts={"problems": [problem.what + " at " + problem.where for problem in problems]},
    )
