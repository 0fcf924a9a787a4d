"""Write a safetensors file as a stream; the official writer wants every tensor in memory at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from apr.errors import UsageError
from apr.formats.dtypes import ENCODINGS
from apr.formats.safetensors.header import DTYPES, LONGEST_HEADER_BYTES, METADATA_KEY, encode_header
from apr.formats.writing import TensorToWrite, WrittenFile, check_tensors, stored_chunks
from apr.storage.atomic import atomic_file
from apr.storage.checksums import Blake3

# What transformers writes, and asks for when it loads.
PYTORCH_METADATA = {"format": "pt"}


def write_safetensors(
    path: Path,
    *,
    tensors: Sequence[TensorToWrite],
    metadata: Mapping[str, str] = PYTORCH_METADATA,
    metadata_slack_bytes: int = 0,
) -> WrittenFile:
    """Write `tensors` to `path`, atomically; one chunk is in memory at a time.

    Tensors with wide elements come first, then by name, as the official writer orders them, so that each is aligned
    to its element. metadata_slack_bytes: spaces behind the metadata, for texts that grow later. Raises
    UsageError for what the format cannot hold, InputOutputError when the system refuses.
    """
    path = Path(path)
    _check_storable(tensors)
    ordered = sorted(tensors, key=lambda tensor: (-ENCODINGS[tensor.dtype].block_bytes, tensor.name))
    forms = {tensor.name: (tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in ordered}
    header = encode_header(forms, metadata, metadata_slack_bytes)
    if len(header) > LONGEST_HEADER_BYTES:
        raise UsageError(
            "the header is longer than safetensors readers accept",
            where=str(path),
            expected=f"at most {LONGEST_HEADER_BYTES} bytes",
            found=f"{len(header)} bytes",
        )
    digests = {}
    with atomic_file(path) as file:
        file.write(header)
        for tensor in ordered:
            hasher = Blake3()
            for chunk in stored_chunks(tensor):
                file.write(chunk)
                hasher.update(chunk)
            digests[tensor.name] = hasher.hexdigest()
    return WrittenFile(path, len(header) + sum(tensor.size_bytes for tensor in ordered), digests)


def _check_storable(tensors: Sequence[TensorToWrite]) -> None:
    check_tensors(tensors)
    for tensor in tensors:
        where = f"tensor {tensor.name}"
        if tensor.name == METADATA_KEY:
            raise UsageError("safetensors keeps this name for its own metadata", where=where)
        if tensor.dtype.value not in DTYPES:
            raise UsageError(
                "safetensors has no such dtype",
                where=where,
                expected=f"one of {', '.join(DTYPES)}",
                found=str(tensor.dtype),
                remedy="dequantise the tensor first",
            )
        if tensor.size_bytes == 0 and tensor.element_count > 0:
            raise UsageError(
                "safetensors cannot hold a tensor of zero bytes with a shape",
                where=where,
                expected="a tensor with its bytes, or none",
                found=f"0 bytes for {tensor.dtype} {list(tensor.shape)}",
                remedy="leave the tied head out; the config's tie_word_embeddings says that it is tied",
            )
