"""Token shards as windows of sequence_length + 1 ids, read through memory maps, never across shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, shell_word
from apr.training.corpus_manifest import TOKEN_BYTES

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of u32 little-endian ids."""

    path: Path
    tokens: int


def find_shards(directory: Path) -> tuple[Shard, ...]:
    """`DIR/*.bin` in order of name; NotFoundError without the directory, RefusedError (INV-CORPUS-EMPTY-001) without a
    shard, DamagedFileError for a size that is no multiple of 4 bytes."""
    if not directory.is_dir():
        raise NotFoundError("no such dataset directory", where=str(directory), remedy="check --dataset")
    shards = []
    for path in sorted(directory.glob("*.bin")):
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise InputOutputError(f"cannot read the shard: {error.strerror}", where=str(path)) from error
        if size_bytes % TOKEN_BYTES:
            raise DamagedFileError(
                "a token shard is cut off in the middle of an id",
                where=str(path),
                expected=f"a multiple of {TOKEN_BYTES} bytes (u32 ids)",
                found=f"{size_bytes} bytes",
                remedy="encode the corpus again with `apr tokenize encode-corpus`",
                invariant="INV-CORPUS-MANIFEST-001",
            )
        shards.append(Shard(path, size_bytes // TOKEN_BYTES))
    if not shards:
        raise RefusedError(
            "the dataset is empty: it holds no token shard",
            where=str(directory),
            expected="shard-00000.bin, ... (u32 ids)",
            found="no *.bin file",
            remedy=f"apr tokenize encode-corpus --corpus TEXT --tokenizer DIR --output {shell_word(directory)}",
            invariant="INV-CORPUS-EMPTY-001",
        )
    return tuple(shards)


class WindowedShards:
    """All whole windows of `shards`, numbered through in order; the rest of a shard that fills none is left out.

    A window holds sequence_length + 1 ids: inputs are all but the last, targets all but the first. Consecutive
    windows do not overlap (upstream's reading, `docs/training.md`, "Data").
    """

    def __init__(self, shards: Sequence[Shard], sequence_length: int) -> None:
        import numpy

        self.shards = tuple(shards)
        self.sequence_length = sequence_length
        self.window_tokens = sequence_length + 1
        counts = [shard.tokens // self.window_tokens for shard in self.shards]
        self._starts = numpy.concatenate([[0], numpy.cumsum(counts, dtype=numpy.int64)])
        self._maps: dict[int, numpy.ndarray] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: numpy.ndarray) -> numpy.ndarray:
        """The windows of `indices` as an int64 array of shape [len(indices), sequence_length + 1]."""
        import numpy

        rows = numpy.empty((len(indices), self.window_tokens), dtype=numpy.int64)
        shard_numbers = numpy.searchsorted(self._starts, indices, side="right") - 1
        for row, (index, number) in enumerate(zip(indices, shard_numbers, strict=True)):
            start = (int(index) - int(self._starts[number])) * self.window_tokens
            rows[row] = self._map(int(number))[start : start + self.window_tokens]
        return rows

    def _map(self, number: int) -> numpy.ndarray:
        import numpy

        if number not in self._maps:
            shard = self.shards[number]
            try:
                self._maps[number] = numpy.memmap(shard.path, dtype="<u4", mode="r", shape=(shard.tokens,))
            except (OSError, ValueError) as error:
                raise InputOutputError(
                    f"cannot read the shard: {error}", where=str(shard.path), remedy="check the dataset"
                ) from error
        return self._maps[number]
