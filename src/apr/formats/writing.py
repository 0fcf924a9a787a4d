"""What every writer takes: tensors whose bytes are produced when they are written, so no model is held twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apr.errors import UsageError
from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType, stored_size_bytes
from apr.storage.checksums import Blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer

COPY_CHUNK_BYTES = 4 << 20

STAMP_SLACK_BYTES = 4096
"""Room that a producer keeps behind the metadata of a new file, so that its first stamps move nothing."""


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """One tensor on its way to a file.

    shape: row-major, as stored. chunks: makes the stored bytes in order, anew at every call; each buffer must be
    C-contiguous and is used before the next one is asked for. declared_size_bytes: only where the size does not
    follow from dtype and shape (zero-byte tied head, Q4_K with padded rows).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Buffer]]
    declared_size_bytes: int | None = None

    @property
    def element_count(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def size_bytes(self) -> int:
        """Bytes this tensor takes in the file, without padding."""
        if self.declared_size_bytes is not None:
            return self.declared_size_bytes
        return stored_size_bytes(self.dtype, self.element_count)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What a writer wrote. tensor_digests: stored name to blake3 hex of the bytes that went to disk."""

    path: Path
    size_bytes: int
    tensor_digests: Mapping[str, str]


def copy_of(entry: TensorEntry, *, name: str | None = None) -> TensorToWrite:
    """The stored tensor `entry`, streamed as it is, under its own or another name. Its file must stay open."""
    return TensorToWrite(
        name=entry.name if name is None else name,
        dtype=entry.dtype,
        shape=entry.shape,
        chunks=lambda: entry.stream(COPY_CHUNK_BYTES),
        declared_size_bytes=entry.size_bytes,
    )


def tensor_from_bytes(name: str, dtype: DType, shape: Sequence[int], data: Buffer) -> TensorToWrite:
    """A tensor whose stored bytes are `data` (bytes, a memoryview or a C-contiguous numpy array)."""
    return TensorToWrite(name, dtype, tuple(shape), lambda: (data,))


def stored_chunks(tensor: TensorToWrite) -> Iterator[memoryview]:
    """The chunks as byte views; raises UsageError when they are not exactly as many bytes as the tensor takes."""
    count = 0
    for chunk in tensor.chunks():
        view = memoryview(chunk)
        if view.nbytes == 0:
            continue
        data = view.cast("B") if view.ndim else memoryview(view.tobytes())
        count += data.nbytes
        if count > tensor.size_bytes:
            break
        yield data
    if count != tensor.size_bytes:
        raise UsageError(
            "a tensor to write has another number of bytes than its dtype and shape say",
            where=f"tensor {tensor.name}",
            expected=f"{tensor.size_bytes} bytes for {tensor.dtype} {list(tensor.shape)}",
            found=f"{count} bytes" if count < tensor.size_bytes else f"at least {count} bytes",
        )


def tensor_digests(tensors: Iterable[TensorToWrite]) -> dict[str, str]:
    """blake3 hex of the bytes of each tensor by name, for records that stand before the tensors in the file."""
    digests = {}
    for tensor in tensors:
        hasher = Blake3()
        for chunk in stored_chunks(tensor):
            hasher.update(chunk)
        digests[tensor.name] = hasher.hexdigest()
    return digests


def check_tensors(tensors: Sequence[TensorToWrite]) -> None:
    """Raise UsageError for a repeated or empty name or a negative dimension; what no format can store."""
    seen: set[str] = set()
    for tensor in tensors:
        if not tensor.name or tensor.name in seen:
            problem = "twice" if tensor.name else "an empty name"
            raise UsageError(
                "tensor names must be unique and not empty", where=f"tensor {tensor.name!r}", found=problem
            )
        seen.add(tensor.name)
        if any(length < 0 for length in tensor.shape):
            raise UsageError("a dimension is negative", where=f"tensor {tensor.name}", found=str(list(tensor.shape)))
