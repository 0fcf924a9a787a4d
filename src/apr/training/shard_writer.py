"""Write one side of a corpus as token shards: u32 little-endian ids, no header, rotated between documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from apr.training.corpus_manifest import (
    DOCUMENT_HASHES_NAME,
    SHARD_NAME,
    ShardRow,
    SideRow,
)

if TYPE_CHECKING:
    import numpy


class ShardWriter:
    """Documents in, `shard-00000.bin`, ... out, in `directory`; call `close` for the account.

    shard_tokens: a shard is closed at the first document boundary at or after this many tokens; a shard is opened
    only when a document comes, so none is empty. eos_id: None, or the id written between documents (`is_between`) or
    after each. counts: occurrences per id, for the statistics.
    """

    def __init__(
        self, directory: Path, *, shard_tokens: int, eos_id: int | None, is_between: bool, vocabulary_size: int
    ) -> None:
        import numpy
        from blake3 import blake3

        directory.mkdir(exist_ok=True)
        self.counts: numpy.ndarray = numpy.zeros(vocabulary_size, dtype=numpy.int64)
        self._directory, self._shard_tokens = directory, shard_tokens
        self._eos_id, self._is_between = eos_id, is_between
        self._rows: list[ShardRow] = []
        self._shard: BinaryIO | None = None
        self._shard_hash = blake3()
        self._tokens = self._documents = self._eos_tokens = 0
        self._total_documents = 0
        self._hashes = (directory / DOCUMENT_HASHES_NAME).open("wb")
        self._hashes_hash = blake3()

    def add(self, ids: list[int], document_hash: bytes) -> None:
        """Append one document; `document_hash` is written to `documents.hashes`."""
        import numpy

        if self._is_between and self._total_documents:
            self._write_eos()
        if self._tokens >= self._shard_tokens:
            self._close_shard()
        array = numpy.asarray(ids, dtype="<u4")
        self.counts += numpy.bincount(array, minlength=len(self.counts))
        self._write(array)
        if not self._is_between:
            self._write_eos()
        self._documents += 1
        self._total_documents += 1
        self._hashes.write(document_hash)
        self._hashes_hash.update(document_hash)

    def close(self) -> SideRow:
        """Close the last shard and give the account of this side."""
        self._close_shard()
        self._hashes.close()
        return SideRow(
            shards=tuple(self._rows),
            total_tokens=sum(row.tokens for row in self._rows),
            total_documents=self._total_documents,
            eos_tokens=self._eos_tokens,
            document_hashes_blake3=self._hashes_hash.hexdigest(),
        )

    def abandon(self) -> None:
        """Close the files without an account, after an error."""
        for file in (self._shard, self._hashes):
            if file is not None:
                file.close()

    def _write_eos(self) -> None:
        import numpy

        if self._eos_id is not None:
            self._write(numpy.asarray([self._eos_id], dtype="<u4"))
            self._eos_tokens += 1

    def _write(self, array: numpy.ndarray) -> None:
        if self._shard is None:
            self._shard = (self._directory / SHARD_NAME.format(index=len(self._rows))).open("wb")
        content = array.tobytes()
        self._shard.write(content)
        self._shard_hash.update(content)
        self._tokens += len(array)

    def _close_shard(self) -> None:
        from blake3 import blake3

        if self._shard is None:
            return
        self._shard.close()
        name = SHARD_NAME.format(index=len(self._rows))
        self._rows.append(ShardRow(name, self._tokens, self._documents, self._shard_hash.hexdigest()))
        self._shard, self._shard_hash, self._tokens, self._documents = None, blake3(), 0, 0
