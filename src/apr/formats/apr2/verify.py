"""Verify every byte of an APR v2 file: the footer's CRC32, and the digests recorded for its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apr.formats.apr2.layout import FOOTER_BYTES
from apr.formats.base import IntegrityProblem, TensorEntry
from apr.formats.digest_check import digest_problems
from apr.storage.checksums import blake3_hex
from apr.storage.digests import NOTHING_READ, Extent, StoredSums, crc32_of, sum_extents
from apr.storage.reading import SourceFile

# Stretches that are not tensors of interest are cut, so that the cores share them.
_LARGEST_PLAIN_EXTENT_BYTES = 32 << 20


def verify_file(
    file: SourceFile,
    entries: Sequence[TensorEntry],
    digests: Mapping[str, str],
    *,
    has_footer: bool,
    read: Mapping[str, StoredSums] = NOTHING_READ,
) -> tuple[IntegrityProblem, ...]:
    """Every contradiction between the bytes and the sums the file carries; reads the file once, in constant memory.

    read: sums of tensors that were read already; of those nothing is read again.
    """
    end_bytes = file.size_bytes - (FOOTER_BYTES if has_footer else 0)
    by_name = {entry.name: entry for entry in entries}
    digested = [by_name[name] for name in digests if name in by_name]
    apart = {entry.name: entry for entry in [*digested, *(by_name[name] for name in read if name in by_name)]}
    sums = sum_extents(file, cover(end_bytes, [entry for entry in apart.values() if entry.size_bytes], read))
    by_offset = {each.extent.offset_bytes: each.blake3_hex for each in sums}
    measured = {
        entry.name: (by_offset[entry.offset_bytes] or "") if entry.size_bytes else blake3_hex(b"") for entry in digested
    }
    footer_problems = _footer_problems(file, crc32_of(sums)) if has_footer else []
    return (*footer_problems, *digest_problems(by_name, digests, measured))


def cover(
    end_bytes: int, entries: Sequence[TensorEntry], read: Mapping[str, StoredSums] = NOTHING_READ
) -> list[Extent]:
    """Extents without gap or overlap from 0 to `end_bytes`, one of them for each entry (which must not overlap)."""
    extents: list[Extent] = []
    position = 0

    def add_plain(until: int) -> None:
        nonlocal position
        while position < until:
            size_bytes = min(until - position, _LARGEST_PLAIN_EXTENT_BYTES)
            extents.append(Extent(position, size_bytes))
            position += size_bytes

    for entry in sorted(entries, key=lambda entry: entry.offset_bytes):
        add_plain(entry.offset_bytes)
        known = read.get(entry.name)
        extents.append(Extent(entry.offset_bytes, entry.size_bytes, wants_blake3=True, known=known))
        position += entry.size_bytes
    add_plain(end_bytes)
    return extents


def _footer_problems(file: SourceFile, computed: int) -> list[IntegrityProblem]:
    offset_bytes = file.size_bytes - FOOTER_BYTES
    stored = int.from_bytes(file.read_at(offset_bytes, FOOTER_BYTES, "the footer"), "little")
    if stored == computed:
        return []
    return [
        IntegrityProblem(
            "the bytes of the file do not have the CRC32 its footer records",
            where=f"{file.path} at byte {offset_bytes}",
            expected=f"{stored:#010x}, as recorded",
            found=f"{computed:#010x}",
        )
    ]
