"""The header of a safetensors file, read strictly (https://github.com/huggingface/safetensors, "Format").

8 bytes: length of the header, u64 little-endian; then a JSON object: name to dtype, shape and data_offsets, which
count from the end of the header; optionally `__metadata__`, an object of texts. The data has no holes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from apr.errors import DamagedFileError
from apr.formats.base import TensorEntry
from apr.formats.damage import MAGIC_VALID, damaged
from apr.formats.dtypes import ENCODINGS, DType, stored_size_bytes
from apr.formats.json_text import parse_object
from apr.storage.reading import SourceFile

LENGTH = struct.Struct("<Q")
METADATA_KEY = "__metadata__"

# The official reader's own limit.
LONGEST_HEADER_BYTES = 100_000_000

# Ours, as of the other formats: a header of the greatest length can name twice as many, and they take minutes.
MOST_TENSORS = 1_000_000

DTYPES = {dtype.value: dtype for dtype, encoding in ENCODINGS.items() if not encoding.is_quantized}

_MOST_ELEMENTS = (1 << 63) - 1


def read_header(file: SourceFile) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors of `file` in file order, and its `__metadata__`.

    Raises DamagedFileError for a header that is not safetensors, repeated names, sizes that do not follow from dtype
    and shape, and data that is not covered exactly by the tensors.
    """
    length = _header_length(file)
    document = parse_object(file.read_at(LENGTH.size, length, "the header"), path=file.path, place="safetensors header")
    metadata = _metadata(file, document.pop(METADATA_KEY, None))
    if len(document) > MOST_TENSORS:
        expected, found = f"at most {MOST_TENSORS} tensors", f"{len(document)} tensors"
        raise damaged("more tensors than any model has", path=file.path, expected=expected, found=found)
    data_offset_bytes = LENGTH.size + length
    tensors = [_entry(file, name, form, data_offset_bytes) for name, form in document.items()]
    tensors.sort(key=lambda entry: (entry.offset_bytes, entry.size_bytes))
    _check_cover(file, tensors, data_offset_bytes)
    return {entry.name: entry for entry in tensors}, metadata


def looks_like_safetensors(start: bytes, size_bytes: int) -> bool:
    """Whether the first bytes of a file of `size_bytes` can be a safetensors header (the format has no magic)."""
    if len(start) <= LENGTH.size:
        return False
    (length,) = LENGTH.unpack_from(start)
    return bool(length <= size_bytes - LENGTH.size and start[LENGTH.size : LENGTH.size + 1] == b"{")


def _header_length(file: SourceFile) -> int:
    if file.size_bytes < LENGTH.size:
        raise damaged(
            "the file is empty" if file.size_bytes == 0 else "the file ends inside the header length",
            path=file.path,
            expected=f"at least {LENGTH.size} bytes",
            found=f"{file.size_bytes} bytes",
            invariant=MAGIC_VALID,
        )
    (length,) = LENGTH.unpack(file.read_at(0, LENGTH.size, "the header length"))
    most = min(LONGEST_HEADER_BYTES, file.size_bytes - LENGTH.size)
    if length > most:
        raise damaged(
            "the header is longer than the file or the format allows",
            path=file.path,
            offset_bytes=0,
            expected=f"at most {most} bytes",
            found=f"{length} bytes",
        )
    return int(length)


def _metadata(file: SourceFile, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise damaged(
            "the metadata of the file is not an object of texts",
            path=file.path,
            place=METADATA_KEY,
            expected="an object whose values are texts",
            found=f"{value!r:.80}",
        )
    return value


def _entry(file: SourceFile, name: str, form: object, data_offset_bytes: int) -> TensorEntry:
    def complain(what: str, expected: str, found: object) -> DamagedFileError:
        return damaged(what, path=file.path, place=f"tensor {name}", expected=expected, found=f"{found!r:.120}")

    if not isinstance(form, dict):
        raise complain("a header entry is not an object", "an object with dtype, shape and data_offsets", form)
    dtype = DTYPES.get(str(form.get("dtype")))
    if dtype is None:
        raise complain("unknown dtype", f"one of {', '.join(DTYPES)}", form.get("dtype"))
    shape, offsets = _naturals(form.get("shape")), _naturals(form.get("data_offsets"))
    if shape is None or math.prod(max(length, 1) for length in shape) > _MOST_ELEMENTS:
        raise complain("the shape is not a list of sizes", "sizes with a product below 2^63", form.get("shape"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise complain("the offsets are not a range", "[begin, end]", form.get("data_offsets"))
    begin, end = offsets
    size_bytes = stored_size_bytes(dtype, math.prod(shape))
    if end - begin != size_bytes:
        expected = f"{size_bytes} bytes for {dtype} {shape}"
        raise complain("the size of a tensor does not follow from its dtype and shape", expected, end - begin)
    return TensorEntry(name, dtype, tuple(shape), file, data_offset_bytes + begin, size_bytes)


def _naturals(value: object) -> list[int] | None:
    if not isinstance(value, list):
        return None
    is_right = all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value)
    return value if is_right else None


def _check_cover(file: SourceFile, tensors: list[TensorEntry], data_offset_bytes: int) -> None:
    position = data_offset_bytes
    for entry in tensors:
        if entry.offset_bytes != position:
            raise damaged(
                "tensors overlap" if entry.offset_bytes < position else "bytes between two tensors belong to none",
                path=file.path,
                place=f"tensor {entry.name}",
                offset_bytes=entry.offset_bytes,
                expected=f"the tensor at byte {position}, where the one before it ends",
                found=f"byte {entry.offset_bytes}",
            )
        position += entry.size_bytes
    if position != file.size_bytes:
        is_short = file.size_bytes < position
        raise damaged(
            "the file ends before its tensors do" if is_short else "bytes behind the last tensor belong to none",
            path=file.path,
            expected=f"{position} bytes",
            found=f"{file.size_bytes} bytes",
        )


def encode_header(
    forms: Mapping[str, tuple[DType, tuple[int, ...], int]], metadata: Mapping[str, str], slack_bytes: int = 0
) -> bytes:
    """Length and JSON for tensors (dtype, shape, size in bytes) in file order, padded so that the data is aligned.

    slack_bytes: spaces behind `metadata`, which stands first, for texts that grow later; none without metadata.
    """
    import json

    document: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape, size_bytes) in forms.items():
        offsets = [position, position + size_bytes]
        document[name] = {"dtype": dtype.value, "shape": list(shape), "data_offsets": offsets}
        position += size_bytes
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if metadata and slack_bytes:
        front = json.dumps({METADATA_KEY: dict(metadata)}, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
        text = front + b" " * slack_bytes + text[len(front) :]
    padded = text.ljust(-(-len(text) // LENGTH.size) * LENGTH.size)
    return LENGTH.pack(len(padded)) + padded
