"""Element types of stored tensors, one vocabulary for every format.

Sizes: `apr-v2` codes and block layouts from `docs/format-apr2.md` §dtypes; safetensors names from its README
(https://github.com/huggingface/safetensors, "Format"); ggml block types from the `gguf` package, version 0.19
(`gguf.constants.GGML_QUANT_SIZES`; a test holds this table against it).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class DType(StrEnum):
    """A stored element type; the value is the name shown to users."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    F8_E8M0 = "F8_E8M0"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    U8 = "U8"
    BOOL = "BOOL"
    APR_Q4 = "APR_Q4"
    APR_Q8 = "APR_Q8"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q8_0 = "Q8_0"
    Q8_1 = "Q8_1"
    Q2_K = "Q2_K"
    Q3_K = "Q3_K"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"
    Q8_K = "Q8_K"
    IQ1_S = "IQ1_S"
    IQ1_M = "IQ1_M"
    IQ2_XXS = "IQ2_XXS"
    IQ2_XS = "IQ2_XS"
    IQ2_S = "IQ2_S"
    IQ3_XXS = "IQ3_XXS"
    IQ3_S = "IQ3_S"
    IQ4_NL = "IQ4_NL"
    IQ4_XS = "IQ4_XS"
    TQ1_0 = "TQ1_0"
    TQ2_0 = "TQ2_0"
    MXFP4 = "MXFP4"
    NVFP4 = "NVFP4"
    Q1_0 = "Q1_0"


class Encoding(NamedTuple):
    """How a dtype is laid out: `block_bytes` for every started block of `block_elements`, after `prefix_bytes`."""

    block_elements: int
    block_bytes: int
    prefix_bytes: int = 0
    is_float: bool = False
    is_quantized: bool = False


ENCODINGS: dict[DType, Encoding] = {
    DType.F64: Encoding(1, 8, is_float=True),
    DType.F32: Encoding(1, 4, is_float=True),
    DType.F16: Encoding(1, 2, is_float=True),
    DType.BF16: Encoding(1, 2, is_float=True),
    DType.F8_E4M3: Encoding(1, 1, is_float=True),
    DType.F8_E5M2: Encoding(1, 1, is_float=True),
    DType.F8_E8M0: Encoding(1, 1, is_float=True),
    DType.I64: Encoding(1, 8),
    DType.I32: Encoding(1, 4),
    DType.I16: Encoding(1, 2),
    DType.I8: Encoding(1, 1),
    DType.U64: Encoding(1, 8),
    DType.U32: Encoding(1, 4),
    DType.U16: Encoding(1, 2),
    DType.U8: Encoding(1, 1),
    DType.BOOL: Encoding(1, 1),
    DType.APR_Q4: Encoding(32, 18, is_quantized=True),
    DType.APR_Q8: Encoding(1, 1, prefix_bytes=4, is_quantized=True),
    DType.Q4_0: Encoding(32, 18, is_quantized=True),
    DType.Q4_1: Encoding(32, 20, is_quantized=True),
    DType.Q5_0: Encoding(32, 22, is_quantized=True),
    DType.Q5_1: Encoding(32, 24, is_quantized=True),
    DType.Q8_0: Encoding(32, 34, is_quantized=True),
    DType.Q8_1: Encoding(32, 40, is_quantized=True),
    DType.Q2_K: Encoding(256, 84, is_quantized=True),
    DType.Q3_K: Encoding(256, 110, is_quantized=True),
    DType.Q4_K: Encoding(256, 144, is_quantized=True),
    DType.Q5_K: Encoding(256, 176, is_quantized=True),
    DType.Q6_K: Encoding(256, 210, is_quantized=True),
    DType.Q8_K: Encoding(256, 292, is_quantized=True),
    DType.IQ1_S: Encoding(256, 50, is_quantized=True),
    DType.IQ1_M: Encoding(256, 56, is_quantized=True),
    DType.IQ2_XXS: Encoding(256, 66, is_quantized=True),
    DType.IQ2_XS: Encoding(256, 74, is_quantized=True),
    DType.IQ2_S: Encoding(256, 82, is_quantized=True),
    DType.IQ3_XXS: Encoding(256, 98, is_quantized=True),
    DType.IQ3_S: Encoding(256, 110, is_quantized=True),
    DType.IQ4_NL: Encoding(32, 18, is_quantized=True),
    DType.IQ4_XS: Encoding(256, 136, is_quantized=True),
    DType.TQ1_0: Encoding(256, 54, is_quantized=True),
    DType.TQ2_0: Encoding(256, 66, is_quantized=True),
    DType.MXFP4: Encoding(32, 17, is_quantized=True),
    DType.NVFP4: Encoding(64, 36, is_quantized=True),
    DType.Q1_0: Encoding(128, 18, is_quantized=True),
}

NOT_DECODED = frozenset({DType.Q8_1, DType.Q8_K, DType.Q1_0})
"""Block types whose values nothing here turns into numbers: `gguf` has no code for them."""


def stored_size_bytes(dtype: DType, element_count: int) -> int:
    """Bytes that `element_count` elements of `dtype` take on disk, without padding; 0 elements take 0 bytes."""
    if element_count == 0:
        return 0
    encoding = ENCODINGS[dtype]
    blocks = -(-element_count // encoding.block_elements)
    return encoding.prefix_bytes + blocks * encoding.block_bytes
