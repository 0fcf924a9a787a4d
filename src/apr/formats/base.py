"""The facts every format yields: what is in the file, read from headers alone, in milliseconds and without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Protocol

from apr.formats.dtypes import DType
from apr.formats.recorded import NOTHING_RECORDED, Recorded
from apr.storage.digests import NOTHING_READ, StoredSums
from apr.storage.reading import HeldDirectory, SourceFile

TOKENIZER_NOT_FETCHED = "the tokenizer is not fetched over the network; download the model to have it checked"


class ChecksumVerifier(Protocol):
    """Holds all bytes of a checkpoint against the sums it carries; `read` spares tensors that were read already."""

    def __call__(self, read: Mapping[str, StoredSums] = NOTHING_READ) -> tuple[IntegrityProblem, ...]: ...


def nothing_to_verify(read: Mapping[str, StoredSums] = NOTHING_READ) -> tuple[IntegrityProblem, ...]:
    """The verifier of a container that carries no sums."""
    return ()


class Format(StrEnum):
    """A checkpoint container; the value is the public name (`apr inspect --json`)."""

    APR2 = "apr2"
    SAFETENSORS = "safetensors"
    HF_DIRECTORY = "hf"
    PEFT_ADAPTER = "peft"
    GGUF = "gguf"


class StampKey(StrEnum):
    """Where a stamp stands and which vocabulary it is written in."""

    APR_ARCHITECTURE = "architecture"
    APR_HF_ARCHITECTURE = "hf_architecture"
    APR_HF_MODEL_TYPE = "hf_model_type"
    CONFIG_ARCHITECTURES = "architectures[0]"
    CONFIG_MODEL_TYPE = "model_type"
    GGUF_ARCHITECTURE = "general.architecture"


class Stamp(NamedTuple):
    """One thing a file says of its own identity. `place` names it to the user, as `config.json: model_type`."""

    key: StampKey
    value: str
    place: str


class TensorEntry(NamedTuple):
    """One stored tensor: `offset_bytes` counts from the start of `file`; dims row-major, `[out, in]` for a linear.

    `size_bytes` 0 with a non-empty shape is the zero-byte tied head of APR files in circulation (`is_placeholder`).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: SourceFile
    offset_bytes: int
    size_bytes: int

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)

    @property
    def is_placeholder(self) -> bool:
        return self.size_bytes == 0 and self.element_count > 0

    def read_bytes(self) -> bytes:
        """All bytes of this tensor."""
        return self.file.read_at(self.offset_bytes, self.size_bytes)

    def stream(self, chunk_bytes: int) -> Iterator[memoryview]:
        """The bytes in order in chunks; each view is valid until the next one is asked for."""
        return self.file.stream(self.offset_bytes, self.size_bytes, chunk_bytes)


class IntegrityProblem(NamedTuple):
    """A contradiction between a file's structure and its bytes that did not stop the header from being read.

    is_harmless: no loader goes by it (a stale total size in an index), so it is worth a note and no refusal.
    """

    what: str
    where: str
    expected: str
    found: str
    is_harmless: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint opened for reading: facts from headers, and the open files its tensors are read from.

    config: the full recorded Hugging Face config (`config.json`, or the one embedded in an `.apr`), None when the
    file records none. `config_place` names it to the user. typed: the dimensions and constants of APR metadata or GGUF
    keys under their Hugging Face names (`num_hidden_layers`, `rope_theta`, ...), empty for other formats.
    metadata: the container's own metadata (APR JSON, safetensors `__metadata__`, GGUF keys), as read. weight_metadata:
    of a directory, file name to the `__metadata__` of that weight file, where it has some.
    tokenizer_files: loader of the lossless tokenizer files (name to bytes); empty mapping when none are recorded.
    count_tokenizer_rows: makes `tokenizer_vocabulary_size`, which is read when it is first asked for, as a tokenizer
    of 150,000 tokens takes longer to parse than all headers. tokenizer_note: why it is not read, where one may be.
    problems: structural contradictions found while reading headers (INV-FILE-INTEGRITY-001).
    The files stay open until `close`, so what was checked is what is loaded, also when the path is replaced.
    directory: held with them when the checkpoint is a directory.
    """

    path: Path
    format: Format
    files: tuple[SourceFile, ...]
    tensors: Mapping[str, TensorEntry]
    stamps: tuple[Stamp, ...]
    config: Mapping[str, Any] | None
    config_place: str | None
    typed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    weight_metadata: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    generation_config: Mapping[str, Any] | None = None
    recorded: Recorded = NOTHING_RECORDED
    tokenizer_files: Callable[[], Mapping[str, bytes]] = lambda: MappingProxyType({})
    count_tokenizer_rows: Callable[[], int | None] = lambda: None
    tokenizer_note: str | None = None
    problems: tuple[IntegrityProblem, ...] = ()
    verify_checksums: ChecksumVerifier = nothing_to_verify
    directory: HeldDirectory | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def parameter_count(self) -> int:
        """Stored elements; a zero-byte placeholder stores none."""
        return sum(entry.element_count for entry in self.tensors.values() if not entry.is_placeholder)

    @property
    def contradictions(self) -> tuple[IntegrityProblem, ...]:
        """The problems that are not harmless."""
        return tuple(problem for problem in self.problems if not problem.is_harmless)

    @cached_property
    def tokenizer_vocabulary_size(self) -> int | None:
        """Embedding rows the recorded tokenizer needs (its largest id plus one), None when the file records none."""
        return self.count_tokenizer_rows()

    def close(self) -> None:
        for file in self.files:
            file.close()
        if self.directory is not None:
            self.directory.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
