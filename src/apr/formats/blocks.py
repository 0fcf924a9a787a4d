"""Which bytes of a quantised block tell that its values are not finite, or that they are all zero.

A block holds one or two scales as floating-point numbers and codes of a few bits, and a value is a scale times a code
(less an offset, which has a scale of its own). So every value of a block is NaN or infinite as soon as a scale is, and
finite otherwise; and a block is zero where a scale is, or where every code means zero.

Source: the `gguf` package, version 0.19 (`quants.py`: `dequantize_blocks` of each type); for Q8_K and Q1_0, which it
does not decode, the structs `block_q8_K` and `block_q1_0` of ggml (`ggml-common.h`); for APR_Q4 and APR_Q8
`docs/format-apr2.md`, "Quantised forms". A test decodes blocks that are made to these rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from apr.formats.dtypes import DType


class Bytes(NamedTuple):
    """The bytes of a block from `start` up to `stop`, each of which is `value` in the bits of `mask`."""

    start: int
    stop: int
    value: int = 0
    mask: int = 0xFF


Together = tuple[Bytes, ...]
Alternatives = tuple[Together, ...]
"""One of these has to hold, and all that stand together in it."""


class BlockRules(NamedTuple):
    """What makes a block not finite, and what makes it zero.

    prefix_not_finite, prefix_zero: the same of the bytes in front of the first block, for all values of the tensor.
    """

    not_finite: Alternatives
    zero: Alternatives
    prefix_not_finite: Alternatives = ()
    prefix_zero: Alternatives = ()


def _half_not_finite(at: int) -> Together:
    """A 16-bit float at byte `at` with all bits of its exponent set."""
    return (Bytes(at + 1, at + 2, 0x7C, 0x7C),)


def _half_zero(at: int) -> Together:
    return (Bytes(at, at + 1), Bytes(at + 1, at + 2, 0, 0x7F))


def _single_not_finite(at: int) -> Together:
    return (Bytes(at + 2, at + 3, 0x80, 0x80), Bytes(at + 3, at + 4, 0x7F, 0x7F))


def _single_zero(at: int) -> Together:
    return (Bytes(at, at + 3), Bytes(at + 3, at + 4, 0, 0x7F))


def _scaled(at: int, *zero_codes: Together) -> BlockRules:
    """Values are the scale at byte `at` times a code."""
    return BlockRules((_half_not_finite(at),), (_half_zero(at), *zero_codes))


def _with_offset(
    scale_at: int, offset_at: int, zero_codes: tuple[Together, ...], zero_offsets: Alternatives
) -> BlockRules:
    """Values are one scale times a code, less or plus another times a further code; both have to be zero."""
    products = (_half_zero(scale_at), *zero_codes)
    offsets = (_half_zero(offset_at), *zero_offsets)
    return BlockRules(
        (_half_not_finite(scale_at), _half_not_finite(offset_at)),
        tuple((*product, *offset) for product in products for offset in offsets),
    )


# Of Q4_K and Q5_K: eight scales and eight minima of 6 bits, packed into bytes 4 to 16.
_K_SCALES_ZERO = (Bytes(4, 8), Bytes(12, 16, 0, 0x0F))
_K_MINIMA_ZERO = (Bytes(8, 12), Bytes(12, 16, 0, 0xF0))

BLOCK_RULES: Mapping[DType, BlockRules] = MappingProxyType(
    {
        DType.Q4_0: _scaled(0, (Bytes(2, 18, 0x88),)),
        DType.Q4_1: _with_offset(0, 2, ((Bytes(4, 20),),), ()),
        DType.Q5_0: _scaled(0, (Bytes(2, 6, 0xFF), Bytes(6, 22))),
        DType.Q5_1: _with_offset(0, 2, ((Bytes(4, 24),),), ()),
        DType.Q8_0: _scaled(0, (Bytes(2, 34),)),
        DType.Q2_K: _with_offset(80, 82, ((Bytes(0, 16, 0, 0x0F),), (Bytes(16, 80),)), ((Bytes(0, 16, 0, 0xF0),),)),
        DType.Q3_K: _scaled(108, (Bytes(0, 32, 0xFF), Bytes(32, 96)), (Bytes(96, 104), Bytes(104, 108, 0xAA))),
        DType.Q4_K: _with_offset(0, 2, (_K_SCALES_ZERO, (Bytes(16, 144),)), (_K_MINIMA_ZERO,)),
        DType.Q5_K: _with_offset(0, 2, (_K_SCALES_ZERO, (Bytes(16, 176),)), (_K_MINIMA_ZERO,)),
        DType.Q6_K: _scaled(208, (Bytes(0, 128), Bytes(128, 192, 0xAA)), (Bytes(192, 208),)),
        DType.Q8_K: BlockRules((_single_not_finite(0),), (_single_zero(0), (Bytes(4, 260),))),
        DType.IQ1_S: _scaled(0),
        # The scale of IQ1_M is spread over the high halves of four bytes.
        DType.IQ1_M: BlockRules(
            ((Bytes(55, 56, 0x70, 0x70), Bytes(53, 54, 0xC0, 0xC0)),),
            (
                (
                    Bytes(49, 50, 0, 0xF0),
                    Bytes(51, 52, 0, 0xF0),
                    Bytes(53, 54, 0, 0xF0),
                    Bytes(55, 56, 0, 0x70),
                ),
            ),
        ),
        DType.IQ2_XXS: _scaled(0),
        DType.IQ2_XS: _scaled(0),
        DType.IQ2_S: _scaled(0),
        DType.IQ3_XXS: _scaled(0),
        DType.IQ3_S: _scaled(0),
        DType.IQ4_NL: _scaled(0),
        DType.IQ4_XS: _scaled(0, (Bytes(2, 4, 0xAA), Bytes(4, 8))),
        # Codes of five and of four digits to the base of three, each the one that means zero.
        DType.TQ1_0: _scaled(52, (Bytes(0, 48, 0x80), Bytes(48, 52, 0x7F))),
        DType.TQ2_0: _scaled(64, (Bytes(0, 64, 0x55),)),
        # An exponent of 8 bits, whose one NaN is 0xFF (OCP Microscaling Formats, version 1.0), has no zero; the codes
        # have two.
        DType.MXFP4: BlockRules(((Bytes(0, 1, 0xFF),),), ((Bytes(1, 17, 0, 0x77),),)),
        # Readers take the one NaN of these scales, 0x7F, for zero.
        DType.NVFP4: BlockRules((), ((Bytes(0, 4, 0, 0x7F),), (Bytes(0, 4, 0x7F),), (Bytes(4, 36, 0, 0x77),))),
        DType.Q1_0: _scaled(0),
        # Scales that are negative or below the normal numbers count as zero. Its readers take NaN for zero as well, yet
        # no writer writes it.
        DType.APR_Q4: BlockRules(
            (_half_not_finite(0),), ((Bytes(1, 2, 0, 0x7C),), (Bytes(1, 2, 0x80, 0x80),), (Bytes(2, 18, 0x88),))
        ),
        DType.APR_Q8: BlockRules((), ((Bytes(0, 1),),), (_single_not_finite(0),), (_single_zero(0),)),
    }
)
"""By block type. Q8_1 is not among them: `gguf` and ggml give its block other sizes, and no file holds it."""
