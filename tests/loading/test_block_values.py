"""Quantised blocks are told finite and not zero without decoding; gguf's own decoder is asked whether that is so."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from apr.formats.apr2.dequantize import dequantize
from apr.formats.base import TensorEntry
from apr.formats.blocks import BLOCK_RULES
from apr.formats.dtypes import ENCODINGS, NOT_DECODED, DType
from apr.loading import values
from apr.storage.reading import SourceFile

DECODED = [
    dtype for dtype in BLOCK_RULES if dtype not in NOT_DECODED and dtype.value in GGMLQuantizationType.__members__
]
# Exponents of MXFP4 above this overflow 32 bits in gguf's decoder, and 0xFF, which means NaN, only there.
LARGEST_EXPONENT = 252


def made_to(blocks, rules):
    """`blocks` changed so that `rules` hold in all of them."""
    blocks = blocks.copy()
    for start, stop, value, mask in rules:
        blocks[:, start:stop] = (blocks[:, start:stop] & (0xFF ^ mask)) | value
    return blocks


def healthy_blocks(dtype, count=8):
    """Random codes under scales that are finite and not zero."""
    size = ENCODINGS[dtype].block_bytes
    blocks = np.random.default_rng(0).integers(1, 256, (count, size), dtype=np.uint8)
    for alternative in BLOCK_RULES[dtype].not_finite:
        for start, stop, _, mask in alternative:
            blocks[:, start:stop] &= 0xFF ^ (mask & 0x44)
    return blocks


def decoded(blocks, dtype):
    with np.errstate(all="ignore"):
        return quants.dequantize(blocks, GGMLQuantizationType[dtype.value])


def facts_of(directory, blocks, dtype):
    path = directory / "bytes"
    path.write_bytes(blocks.tobytes())
    shape = (len(blocks), ENCODINGS[dtype].block_elements)
    return values.read_tensor_facts(TensorEntry("weight", dtype, shape, SourceFile(path), 0, blocks.size))


def test_every_block_type_has_rules_but_the_one_whose_size_nobody_agrees_on():
    assert {dtype for dtype, encoding in ENCODINGS.items() if encoding.is_quantized} - set(BLOCK_RULES) == {DType.Q8_1}


@pytest.mark.parametrize("dtype", DECODED)
def test_healthy_blocks_decode_to_finite_numbers_and_are_called_so(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(values, "CHUNK_BYTES", 1024)
    blocks = healthy_blocks(dtype)
    if dtype is DType.MXFP4:
        blocks[:, 0] = np.minimum(blocks[:, 0], LARGEST_EXPONENT)
    assert np.isfinite(decoded(blocks, dtype)).all()
    facts = facts_of(tmp_path, blocks, dtype)
    assert (facts.non_finite_count, facts.is_all_zero, facts.has_known_values) == (0, False, True)


@pytest.mark.parametrize("dtype", DECODED)
def test_a_scale_that_is_not_finite_poisons_its_block_and_is_counted(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(values, "CHUNK_BYTES", 1024)
    for alternative in BLOCK_RULES[dtype].not_finite:
        blocks = healthy_blocks(dtype)
        for row in (0, 5, 7):
            blocks[row : row + 1] = made_to(blocks[row : row + 1], alternative)
        poisoned = ~np.isfinite(decoded(blocks, dtype))
        if dtype is not DType.MXFP4:
            assert poisoned.all(axis=1).tolist() == [True, *[False] * 4, True, False, True]
            assert not poisoned[[1, 2, 3, 4, 6]].any()
        assert facts_of(tmp_path, blocks, dtype).non_finite_count == 3 * ENCODINGS[dtype].block_elements


@pytest.mark.parametrize("dtype", DECODED)
def test_blocks_that_decode_to_zeros_are_zero_and_one_other_block_denies_it(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(values, "CHUNK_BYTES", 1024)
    for alternative in BLOCK_RULES[dtype].zero:
        blocks = made_to(healthy_blocks(dtype), alternative)
        assert not decoded(blocks, dtype).any(), alternative
        assert facts_of(tmp_path, blocks, dtype).is_all_zero
        for row in (0, 7):
            mixed = blocks.copy()
            mixed[row] = healthy_blocks(dtype)[row]
            assert decoded(mixed, dtype).any()
            assert not facts_of(tmp_path, mixed, dtype).is_all_zero


@pytest.mark.parametrize(
    "dtype", [DType.Q4_0, DType.Q4_1, DType.Q5_0, DType.Q5_1, DType.Q8_0, DType.TQ1_0, DType.TQ2_0]
)
def test_what_a_quantiser_makes_of_zeros_and_of_weights(dtype, tmp_path):
    weights = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
    for array, is_zero in ((np.zeros_like(weights), True), (weights, False)):
        raw = quants.quantize(array, GGMLQuantizationType[dtype.value])
        facts = facts_of(tmp_path, raw.reshape(-1, ENCODINGS[dtype].block_bytes), dtype)
        assert (facts.is_all_zero, facts.non_finite_count) == (is_zero, 0)


def test_types_that_gguf_does_not_decode_have_their_scale_where_ggml_puts_it(tmp_path):
    for dtype, scale in ((DType.Q8_K, np.float32), (DType.Q1_0, np.float16)):
        for value, expected in ((1.5, (0, False)), (-0.0, (0, True)), (np.nan, (1, False)), (-np.inf, (1, False))):
            blocks = np.full((1, ENCODINGS[dtype].block_bytes), 3, np.uint8)
            raw = np.frombuffer(scale(value).tobytes(), np.uint8)
            blocks[0, : len(raw)] = raw
            facts = facts_of(tmp_path, blocks, dtype)
            assert (facts.non_finite_count // ENCODINGS[dtype].block_elements, facts.is_all_zero) == expected


@pytest.mark.parametrize(
    ("scale", "codes", "expected"),
    [
        (0.5, [1, 2, 3], (0, False)),
        (0.0, [1, 2, 3], (0, True)),
        (0.5, [0, 0, 0], (0, True)),
        (np.nan, [1, 2, 3], (3, False)),
        (np.inf, [1, 2, 3], (3, False)),
    ],
)
def test_the_one_scale_of_apr_q8(scale, codes, expected, tmp_path):
    raw = np.float32(scale).tobytes() + np.array(codes, np.int8).tobytes()
    path = tmp_path / "bytes"
    path.write_bytes(raw)
    facts = values.read_tensor_facts(TensorEntry("weight", DType.APR_Q8, (3,), SourceFile(path), 0, len(raw)))
    assert (facts.non_finite_count, facts.is_all_zero) == expected


@pytest.mark.parametrize(
    ("scale", "code", "expected"),
    [
        (0.5, 0x12, (0, False)),
        (0.5, 0x88, (0, True)),
        (0.0, 0x12, (0, True)),
        (-0.5, 0x12, (0, True)),
        (2.0**-15, 0x12, (0, True)),
        (np.nan, 0x12, (32, False)),
    ],
)
def test_the_scales_of_apr_q4(scale, code, expected, tmp_path):
    blocks = np.frombuffer(np.float16(scale).tobytes() + bytes([code] * 16), np.uint8)[None]
    facts = facts_of(tmp_path, blocks, DType.APR_Q4)
    assert (facts.non_finite_count, facts.is_all_zero) == expected
    assert facts.is_all_zero == (np.isfinite(scale) and not dequantize(blocks.tobytes(), DType.APR_Q4, (32,)).any())
