"""Hold the bytes of tensors against the digests recorded for them, in any container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apr.formats.base import IntegrityProblem, TensorEntry
from apr.storage.checksums import blake3_hex
from apr.storage.digests import NOTHING_READ, Extent, StoredSums, sum_extents
from apr.storage.reading import SourceFile


def verify_digests(
    tensors: Mapping[str, TensorEntry], digests: Mapping[str, str], read: Mapping[str, StoredSums] = NOTHING_READ
) -> tuple[IntegrityProblem, ...]:
    """Every tensor whose bytes do not have the recorded blake3 digest, and digests of tensors that are not stored.

    Reads each tensor with a digest once, in constant memory; none of those in `read`, whose sums are known.
    """
    files: dict[int, tuple[SourceFile, list[TensorEntry]]] = {}
    for name in digests:
        entry = tensors.get(name)
        if entry is not None and entry.size_bytes:
            files.setdefault(id(entry.file), (entry.file, []))[1].append(entry)
    measured = {name: blake3_hex(b"") for name, entry in tensors.items() if not entry.size_bytes}
    for file, entries in files.values():
        extents = [
            Extent(entry.offset_bytes, entry.size_bytes, wants_blake3=True, known=read.get(entry.name))
            for entry in entries
        ]
        for entry, sums in zip(entries, sum_extents(file, extents), strict=True):
            measured[entry.name] = sums.blake3_hex or ""
    return tuple(digest_problems(tensors, digests, measured))


def digest_problems(
    tensors: Mapping[str, TensorEntry], digests: Mapping[str, str], measured: Mapping[str, str]
) -> Sequence[IntegrityProblem]:
    """What `digests` (recorded) and `measured` (of the bytes) disagree in, by tensor name."""
    problems = []
    for name, digest in digests.items():
        entry = tensors.get(name)
        if entry is None:
            what = "a recorded digest names a tensor that is not stored"
            problems.append(IntegrityProblem(what, f"tensor {name}", "a stored tensor", "none of this name"))
        elif measured[name] != digest:
            problems.append(
                IntegrityProblem(
                    "the bytes of a tensor do not have the recorded digest",
                    where=f"{entry.file.path}: tensor {name} at byte {entry.offset_bytes}",
                    expected=f"blake3 {digest}",
                    found=f"blake3 {measured[name]}",
                )
            )
    return problems
