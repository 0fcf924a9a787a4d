"""Norm gains: what the claimed class computes with them, and what the gains themselves show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from apr.formats.dtypes import ENCODINGS
from apr.loading.roles import Role, role_of
from apr.loading.values import TensorFacts

# Model types whose norm computes x * (1 + weight): `_norm` and `forward` of the norm classes in their modeling files of
# transformers 5.23.0; their gains start at 0 where all others start at 1.
NORMS_THAT_ADD_ONE = frozenset(
    {
        *("gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma", "vaultgemma", "t5gemma", "t5gemma2"),
        *("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    }
)
# These add one as well, and yet their gains start at 1, or at 0 in some of their norms only: nothing follows from them.
NORMS_OF_EITHER_KIND = frozenset(
    {
        *("nemotron", "minimax_m3_vl", "muse_glimmer", "muse_spark", "qwen4_exp", "step3p7", "videoprism"),
        *("minimax_m3_vl_text", "muse_glimmer_text", "muse_spark_text", "qwen4_exp_text", "step3p7_text"),
    }
)


class Convention(Enum):
    """What a class computes with the gain of a norm; EITHER where nothing follows from the gains' centre."""

    PLAIN = "x * w"
    ADDS_ONE = "x * (1 + w)"
    EITHER = "either"


def convention_of(model_type: str, config: Mapping[str, Any]) -> Convention:
    """The convention of a model type and of the types its config nests (`text_config.model_type`)."""
    nested = [value.get("model_type") for value in config.values() if isinstance(value, Mapping)]
    types = {model_type, *(each for each in nested if isinstance(each, str))}
    if types & NORMS_OF_EITHER_KIND or (len(types) > 1 and types & NORMS_THAT_ADD_ONE):
        return Convention.EITHER
    return Convention.ADDS_ONE if types & NORMS_THAT_ADD_ONE else Convention.PLAIN


class GainCentre(Enum):
    """Around what the gains of a model's norms lie, where nearly all of them say the same."""

    ZERO = 0
    ONE = 1


def gain_centre(values: Mapping[str, TensorFacts]) -> GainCentre | None:
    """The convention that the norm gains of a model show; None where they do not show it clearly.

    ZERO: four of five gains lie within half of 0, each with a fifth of its values negative. ONE: four of five lie close
    around 1 with nothing negative. Healthy gains of a norm without the added one may be small, but hardly any are
    negative; healthy gains of a norm with it spread widely.
    """
    gains = [
        seen
        for seen in values.values()
        if role_of(seen.entry) is Role.NORM_GAIN and ENCODINGS[seen.entry.dtype].is_float and seen.mean is not None
    ]
    if len(gains) < 3:
        return None
    if sum(map(_is_around_zero, gains)) >= 0.8 * len(gains):
        return GainCentre.ZERO
    if sum(map(_is_around_one, gains)) >= 0.8 * len(gains):
        return GainCentre.ONE
    return None


def _is_around_zero(seen: TensorFacts) -> bool:
    if seen.is_all_zero:
        return True
    return abs(seen.mean or 0.0) < 0.5 and (seen.negative_share or 0.0) >= 0.2


def _is_around_one(seen: TensorFacts) -> bool:
    mean, std = seen.mean or 0.0, seen.std or 0.0
    return 0.7 <= mean <= 1.5 and std < 0.3 * mean and not seen.negative_share


def dead_gains(values: Iterable[TensorFacts]) -> tuple[str, ...]:
    """Gains that are zero everywhere: where a norm computes x * w, nothing gets through it any more."""
    gains = (seen for seen in values if role_of(seen.entry) is Role.NORM_GAIN and seen.is_all_zero)
    return tuple(sorted(seen.entry.name for seen in gains))
