"""APR v2 files put together by hand from the format's description, independently of the code under test."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class CraftedTensor:
    """One tensor as it stands in the index; offset, size and name can be made to lie."""

    name: bytes
    code: int
    dims: tuple[int, ...]
    data: bytes
    offset: int | None = None
    size: int | None = None
    dimension_count: int | None = None


@dataclass(frozen=True)
class Crafted:
    """A whole file; every header field can be overruled by its name in `header`."""

    tensors: tuple[CraftedTensor, ...]
    metadata: bytes = b"{}"
    header: dict[str, Any] = field(default_factory=dict)
    has_footer: bool = True

    def but(self, **changes: Any) -> Crafted:
        return replace(self, **changes)

    def but_tensor(self, number: int, **changes: Any) -> Crafted:
        tensors = list(self.tensors)
        tensors[number] = replace(tensors[number], **changes)
        return replace(self, tensors=tuple(tensors))

    def to_bytes(self) -> bytes:
        index, data = b"", b""
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            size = len(tensor.data) if tensor.size is None else tensor.size
            count = len(tensor.dims) if tensor.dimension_count is None else tensor.dimension_count
            index += struct.pack("<H", len(tensor.name)) + tensor.name + bytes((tensor.code, count))
            index += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims) + struct.pack("<QQ", offset, size)
            data += padded(tensor.data)
        metadata_offset, index_offset = 64, 64 + len(padded(self.metadata))
        fields: dict[str, Any] = {
            "magic": b"APR\0",
            "major": 2,
            "minor": 0,
            "flags": 0x0400,
            "tensor_count": len(self.tensors),
            "metadata_offset": metadata_offset,
            "metadata_size": len(self.metadata),
            "index_offset": index_offset,
            "data_offset": index_offset + len(padded(index)),
        }
        fields |= {key: value for key, value in self.header.items() if key != "checksum"}
        first, last = struct.pack("<4sBBHIQIQQ", *fields.values()), bytes(20)
        checksum = self.header.get("checksum", zlib.crc32(first + last))
        body = first + struct.pack("<I", checksum) + last + padded(self.metadata) + padded(index) + data
        return body + struct.pack("<I", zlib.crc32(body)) if self.has_footer else body


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def as_json(**keys: Any) -> bytes:
    return json.dumps(keys, separators=(",", ":"), ensure_ascii=False).encode()


SMALL = Crafted(
    tensors=(
        CraftedTensor(b"a.weight", 0, (2, 3), floats(1, 2, 3, 4, 5, 6)),
        CraftedTensor(b"b.bias", 30, (5,), bytes(range(10))),
        CraftedTensor(b"c", 5, (), struct.pack("<q", -7)),
    ),
    metadata=as_json(architecture="qwen2", hf_architecture="Qwen2ForCausalLM", hidden_size=3, license=None),
)


def with_valid_sums(data: bytes) -> bytes:
    """`data` with header checksum and footer made right, so that only what was changed between them is wrong."""
    checksum = struct.pack("<I", zlib.crc32(data[:40] + data[44:64]))
    body = data[:40] + checksum + data[44:-4]
    return body + struct.pack("<I", zlib.crc32(body))
