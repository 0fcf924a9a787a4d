"""GGUF files made by hand, byte by byte, and not through our own encoder."""

from __future__ import annotations

import struct
from collections.abc import Sequence

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
F32_TENSOR, F16_TENSOR, Q4_0_TENSOR, Q8_0_TENSOR = 0, 1, 2, 8


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def array(key: str, kind: int, count: int, raw: bytes) -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + raw)


def words(key: str, values: Sequence[str]) -> bytes:
    return array(key, STRING, len(values), b"".join(map(text, values)))


def info(name: str | bytes, dimensions: Sequence[int], code: int, offset: int) -> bytes:
    """dimensions: fastest first, as ggml has them."""
    head = text(name) + struct.pack("<I", len(dimensions))
    return head + struct.pack(f"<{len(dimensions)}QIQ", *dimensions, code, offset)


def crafted(
    pairs: Sequence[bytes],
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    pair_count: int | None = None,
    info_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    counts = len(infos) if info_count is None else info_count, len(pairs) if pair_count is None else pair_count
    head = struct.pack("<4sIQQ", b"GGUF", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + data


ARCHITECTURE = pair("general.architecture", STRING, text("qwen2"))
PAIRS = [
    ARCHITECTURE,
    pair("qwen2.block_count", U32, struct.pack("<I", 2)),
    pair("qwen2.embedding_length", U64, struct.pack("<Q", 4)),
    pair("qwen2.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-6)),
    array("qwen2.attention.head_count", I32, 2, struct.pack("<2i", 2, 2)),
    pair("a.u8", U8, b"\xff"),
    pair("a.i8", I8, b"\xff"),
    pair("a.u16", U16, b"\xff\xff"),
    pair("a.i16", I16, b"\xff\xff"),
    pair("a.i32", I32, b"\xff\xff\xff\xff"),
    pair("a.i64", I64, b"\xff" * 8),
    pair("a.f64", F64, struct.pack("<d", 0.1)),
    pair("a.yes", BOOL, b"\1"),
    pair("a.no", BOOL, b"\0"),
    array("a.bools", BOOL, 3, b"\1\0\1"),
    array("a.nested", ARRAY, 2, struct.pack("<IQ2H", U16, 2, 1, 2) + struct.pack("<IQ", STRING, 1) + text("ü")),
    array("a.empty", STRING, 0, b""),
    words("tokenizer.ggml.tokens", ["<s>", "", "日本", "x" * 40]),
]
INFOS = [
    info("token_embd.weight", [4, 4], F32_TENSOR, 0),
    info("blk.0.attn_q.weight", [32, 2], Q4_0_TENSOR, 64),
    info("blk.0.attn_norm.weight", [8], F32_TENSOR, 128),
]
DATA = bytes(range(64)) + bytes(range(36)).ljust(64, b"\0") + bytes(range(32))
SMALL = crafted(PAIRS, INFOS, DATA)
"""Every type of value, arrays in arrays, a quantised tensor, and no padding at the end."""
