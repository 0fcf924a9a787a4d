"""Constants of the GGUF format: what stands in its header, and how much of it a reader takes in.

Source: the GGUF specification (`docs/gguf.md` of https://github.com/ggml-org/ggml) and the readers of llama.cpp
(`ggml/src/gguf.cpp`) and of the `gguf` package, version 0.19. A file is: magic, version, counts of tensors and keys;
the keys with their values; a list of tensors; zeros up to the alignment; the data of the tensors.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from apr.formats.dtypes import DType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Versions 2 and 3 differ in byte order only, and only little-endian files are read."""

PREAMBLE = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of keys."""

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class ValueType(IntEnum):
    """Type of a value, as its code in the file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


SCALARS: dict[ValueType, str] = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.BOOL: "B",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}
"""Types of fixed size to their letter in `struct`; all are little-endian."""

SCALAR_BYTES: dict[ValueType, int] = {kind: struct.calcsize("<" + letter) for kind, letter in SCALARS.items()}

DTYPE_OF_CODE: dict[int, DType] = {
    0: DType.F32,
    1: DType.F16,
    2: DType.Q4_0,
    3: DType.Q4_1,
    6: DType.Q5_0,
    7: DType.Q5_1,
    8: DType.Q8_0,
    9: DType.Q8_1,
    10: DType.Q2_K,
    11: DType.Q3_K,
    12: DType.Q4_K,
    13: DType.Q5_K,
    14: DType.Q6_K,
    15: DType.Q8_K,
    16: DType.IQ2_XXS,
    17: DType.IQ2_XS,
    18: DType.IQ3_XXS,
    19: DType.IQ1_S,
    20: DType.IQ4_NL,
    21: DType.IQ3_S,
    22: DType.IQ2_S,
    23: DType.IQ4_XS,
    24: DType.I8,
    25: DType.I16,
    26: DType.I32,
    27: DType.I64,
    28: DType.F64,
    29: DType.IQ1_M,
    30: DType.BF16,
    34: DType.TQ1_0,
    35: DType.TQ2_0,
    39: DType.MXFP4,
    40: DType.NVFP4,
    41: DType.Q1_0,
}
"""Code of a tensor type (`gguf.constants.GGMLQuantizationType`); the codes between were given up by their makers."""

ARCHITECTURE_KEY = "general.architecture"
TYPE_KEY = "general.type"
ALIGNMENT_KEY = "general.alignment"
DATASETS_KEY = "general.datasets"
LICENSE_KEY = "general.license"
TOKENS_KEY = "tokenizer.ggml.tokens"
SPLIT_PREFIX = "split."
SPLIT_COUNT_KEY = "split.count"
SPLIT_NUMBER_KEY = "split.no"
SPLIT_TENSORS_KEY = "split.tensors.count"

OWN_PREFIX = "apr."
"""The specification asks communities to put their keys under a name of their own."""

HISTORY_KEY = "apr.history"
DATA_SOURCE_KEY = "apr.data_source"
DATA_LICENSE_KEY = "apr.data_license"

PADDING_KEY = "apr.padding"
"""A text of spaces that keeps room for later stamps, as GGUF has no padding inside its header. `apr.padding.1` and
so on fill the place of a value that moved. They say nothing and are never shown."""

DEFAULT_ALIGNMENT = 32
ALIGNMENT_UNIT = 8

MOST_DIMENSIONS = 4
LONGEST_KEY_BYTES = 0xFFFF
SMALLEST_PAIR_BYTES = 8 + 1 + 4 + 1
SMALLEST_TENSOR_INFO_BYTES = 8 + 4 + 4 + 8

# Beyond anything in circulation (the largest vocabularies take 20 MB), and small enough to be read in seconds.
LONGEST_HEADER_BYTES = 256 << 20
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 20
MOST_NESTED_ARRAYS = 1 << 16
DEEPEST_NESTING = 4


def aligned(position: int, alignment: int) -> int:
    """The first multiple of `alignment` that is not below `position`."""
    return -(-position // alignment) * alignment


def is_padding(key: str) -> bool:
    """Whether `key` is one of ours that only take up room."""
    return key == PADDING_KEY or key.startswith(PADDING_KEY + ".")
