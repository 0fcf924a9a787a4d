"""Quantised tensors: values as the format's rules encode them, and every size that does not fit refused."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.errors import DamagedFileError
from apr.formats.apr2.dequantize import dequantize
from apr.formats.apr2.extents import padded_rows_size_bytes
from apr.formats.dtypes import DType, stored_size_bytes

np = pytest.importorskip("numpy")


def rust_round(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def encode_q8(values: list[float]) -> bytes:
    largest = max((abs(value) for value in values), default=0.0)
    scale = struct.unpack("<f", struct.pack("<f", largest / 127 if largest else 1.0))[0]
    return struct.pack("<f", scale) + bytes(max(-127, min(127, rust_round(v / scale))) & 0xFF for v in values)


def encode_q4(values: list[float]) -> bytes:
    encoded = b""
    for start in range(0, len(values), 32):
        block = values[start : start + 32]
        scale = max(abs(value) for value in block) / 7 or 1.0
        nibbles = [max(-8, min(7, rust_round(value / scale))) + 8 for value in block] + [0] * (32 - len(block))
        encoded += struct.pack("<e", scale) + bytes(
            a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2], strict=True)
        )
    return encoded


numbers = st.lists(st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 0.01), min_size=1, max_size=100)


@given(numbers)
def test_apr_q8_comes_back_within_half_a_step(values: list[float]) -> None:
    raw = encode_q8(values)
    assert len(raw) == stored_size_bytes(DType.APR_Q8, len(values))
    found = dequantize(raw, DType.APR_Q8, (len(values),))
    step = max(map(abs, values)) / 127
    assert np.max(np.abs(found - np.array(values))) <= step * 0.501
    assert found.dtype == np.float32


@given(numbers)
def test_apr_q4_comes_back_within_half_a_step(values: list[float]) -> None:
    raw = encode_q4(values)
    assert len(raw) == stored_size_bytes(DType.APR_Q4, len(values))
    found = dequantize(raw, DType.APR_Q4, (len(values),))
    assert np.max(np.abs(found - np.array(values))) <= max(map(abs, values)) / 7 * 0.51


def test_apr_q4_low_nibble_comes_first() -> None:
    raw = struct.pack("<e", 2.0) + bytes([0x9F]) + bytes([0x88]) * 15
    assert dequantize(raw, DType.APR_Q4, (32,))[:3].tolist() == [14.0, 2.0, 0.0]


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 2.0**-15, 0.0])
def test_apr_q4_scales_that_are_not_normal_count_as_zero(scale: float) -> None:
    assert not dequantize(struct.pack("<e", scale) + b"\x12" * 16, DType.APR_Q4, (32,)).any()


def test_nothing_takes_no_bytes() -> None:
    assert dequantize(b"", DType.APR_Q8, (0, 3)).shape == (0, 3)


def q4_k_block(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    scales = struct.pack("<ee", 0.01, 0.002) + generator.integers(0, 256, 12, np.uint8).tobytes()
    return scales + generator.integers(0, 256, 128, np.uint8).tobytes()


@pytest.mark.interop
def test_q4_k_equals_gguf_in_both_row_layouts() -> None:
    from gguf import GGMLQuantizationType, quants

    blocks = b"".join(q4_k_block(seed) for seed in range(6))
    flat = quants.dequantize(np.frombuffer(blocks, np.uint8).reshape(6, 144), GGMLQuantizationType.Q4_K).reshape(-1)
    assert np.array_equal(dequantize(blocks, DType.Q4_K, (3, 512)), flat.reshape(3, 512))
    assert padded_rows_size_bytes(DType.Q4_K, (3, 300)) == len(blocks)
    assert np.array_equal(dequantize(blocks, DType.Q4_K, (3, 300)), flat.reshape(3, 512)[:, :300])
    assert np.array_equal(dequantize(blocks[: 144 * 4], DType.Q4_K, (3, 300)), flat[:900].reshape(3, 300))
    assert np.array_equal(dequantize(blocks[:144], DType.Q4_K, (200,)), flat[:200])


@pytest.mark.interop
def test_q6_k_equals_gguf() -> None:
    from gguf import GGMLQuantizationType, quants

    raw = np.random.default_rng(1).integers(0, 256, (2, 210), np.uint8)
    raw[:, -2:] = np.frombuffer(struct.pack("<e", 0.02), np.uint8)
    expected = quants.dequantize(raw, GGMLQuantizationType.Q6_K).reshape(2, 256)
    assert np.array_equal(dequantize(raw.tobytes(), DType.Q6_K, (2, 256)), expected)


def test_rows_that_fit_both_layouts_are_refused() -> None:
    with pytest.raises(DamagedFileError, match="two ways") as caught:
        dequantize(q4_k_block(0) + q4_k_block(1), DType.Q4_K, (2, 255), where="tensor w")
    assert caught.value.where == "tensor w"


@pytest.mark.parametrize("dtype", [DType.APR_Q4, DType.APR_Q8, DType.Q4_K, DType.Q6_K])
def test_another_number_of_bytes_is_refused(dtype: DType) -> None:
    size = stored_size_bytes(dtype, 512)
    for length in (0, size - 1, size + 1):
        with pytest.raises(DamagedFileError, match="does not follow"):
            dequantize(bytes(length), dtype, (2, 256))
    assert dequantize(bytes(size), dtype, (2, 256)).shape == (2, 256)
