"""Proof that a written checkpoint holds the tensors it was made from: reopened from disk, digest by digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from apr.convert.metering import UNMETERED, Meter
from apr.errors import DamagedFileError, RefusedError
from apr.formats.base import Checkpoint, IntegrityProblem, TensorEntry
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.storage.digests import Extent, StoredSums, sum_extents

TENSORS_AT_ONCE = 16


class StoredTensor(NamedTuple):
    """What a tensor is on disk: dtype, row-major shape, and blake3 hex of its bytes."""

    dtype: DType
    shape: tuple[int, ...]
    blake3_hex: str


def intact_tensors(checkpoint: Checkpoint, meter: Meter = UNMETERED) -> dict[str, StoredTensor]:
    """What every tensor of `checkpoint` is on disk, by name; each byte is read once, in constant memory.

    Raises DamagedFileError when a checksum or recorded digest does not hold: writing a damaged file anew would give
    it valid checksums, and the damage could never be found again.
    """
    sums = _sums(checkpoint.tensors.values(), meter)
    problems = checkpoint.verify_checksums(sums)
    if problems:
        raise _damaged(f"the checkpoint is damaged in {len(problems)} places", problems)
    return _stored(checkpoint, sums)


def check_written(
    path: Path, expected: Mapping[str, StoredTensor], *, invariant: str, meter: Meter = UNMETERED
) -> Checkpoint:
    """The checkpoint at `path`, open, after every byte was read again and holds exactly the `expected` tensors.

    The caller closes it. Raises RefusedError with `invariant` naming a tensor that differs (all of them in `facts`),
    DamagedFileError when a checksum of the written file does not hold.
    """
    checkpoint = open_checkpoint(path)
    try:
        sums = _sums(checkpoint.tensors.values(), meter)
        found = _stored(checkpoint, sums)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise RefusedError(
                f"{len(differing)} tensors were not written as they are; the result was not put in place",
                where=f"tensor {name}",
                expected=str(expected.get(name, "no such tensor")),
                found=str(found.get(name, "no such tensor")),
                remedy="look at the state of the disk and its memory, then run again; the source is unchanged",
                invariant=invariant,
                facts={"tensors": differing},
            )
        problems = checkpoint.verify_checksums(sums)
        if problems:
            raise _damaged("the written file does not verify; it was not put in place", problems)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _stored(checkpoint: Checkpoint, sums: Mapping[str, StoredSums]) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(entry.dtype, entry.shape, sums[name].blake3_hex)
        for name, entry in checkpoint.tensors.items()
    }


def _sums(entries: Iterable[TensorEntry], meter: Meter) -> dict[str, StoredSums]:
    """CRC32 and digest of each tensor by name, on all cores."""
    ordered = list(entries)
    found: dict[str, StoredSums] = {}
    for start in range(0, len(ordered), TENSORS_AT_ONCE):
        by_file: dict[int, list[TensorEntry]] = {}
        for entry in ordered[start : start + TENSORS_AT_ONCE]:
            by_file.setdefault(id(entry.file), []).append(entry)
        for group in by_file.values():
            extents = [Extent(entry.offset_bytes, entry.size_bytes, wants_blake3=True) for entry in group]
            for entry, sums in zip(group, sum_extents(group[0].file, extents), strict=True):
                found[entry.name] = StoredSums(sums.crc32, str(sums.blake3_hex))
                meter.add(entry.size_bytes)
    return found


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
