"""Tensors that a class leaves out of a file by its own declaration: heads for multi-token prediction.

A published DeepSeek-V3, GLM-4.5 or Qwen3-Next holds, beside the model, a head that predicts more tokens than one. The
zoo's classes have no such part and say so (`_keys_to_ignore_on_load_unexpected`). What they leave out is named in the
ledger with the reason; anything else that a class does not use is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apr.formats.base import Checkpoint

LEFT_OUT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bailing_hybrid": (r"model\.layers\.42\..*",),
        "deepseek_v3": (r"model\.layers\.61.*",),
        "deepseek_v32": (r"model\.layers\.61.*",),
        "deepseek_v4": (r"(^|\.)mtp\..*",),
        "ernie4_5_moe": ("mtp",),
        "exaone_moe": (r"mtp.*",),
        "glm4_moe": (r"model\.layers\.92.*", r"model\.layers\.46.*"),
        "glm4_moe_lite": (r"model\.layers\.47.*",),
        "glm_moe_dsa": (r"model\.layers\.78.*",),
        "hy_v3": (r"model\.layers\.80.*",),
        "hy_v4": (r"model\.mtp_layers\..*",),
        "inkling_text": (r"model\.mtp\..*",),
        "longcat_flash": (r"model\.mtp.*",),
        "mellum": (r"^mtp\.",),
        "mimo_v2_flash": (r"^model\.mtp\.",),
        "minimax_m3_vl_text": (r"(^|\.)mtp\..*",),
        "nemotron_h": (r"mtp.*",),
        "olmo_hybrid": (r"^mtp.*",),
        "qwen3_5_moe_text": (r"^mtp.*",),
        "qwen3_5_text": (r"^mtp.*",),
        "qwen3_next": (r"^mtp.*",),
        "qwen4_exp_text": (r"^mtp.*",),
    }
)
"""Model type to the patterns its causal class declares, searched in a name (transformers 5.23; tested against it)."""

REASON = "a head for multi-token prediction, which {model_type} leaves out by its own declaration"


def left_out(checkpoint: Checkpoint) -> Mapping[str, str]:
    """Names of such tensors in `checkpoint`, each with the reason, by the model type of its recorded config.

    A layer that the class has under that config is a layer, whatever its number.
    """
    config = checkpoint.config or {}
    model_type = config.get("model_type")
    patterns = LEFT_OUT.get(model_type, ()) if isinstance(model_type, str) else ()
    names = [name for name in checkpoint.tensors if any(re.search(pattern, name) for pattern in patterns)]
    if not names:
        return MappingProxyType({})
    depth = config.get("num_hidden_layers")
    return {
        name: REASON.format(model_type=model_type)
        for name in names
        if "mtp" in name or (isinstance(depth, int) and _layer(name) >= depth)
    }


def _layer(name: str) -> int:
    found = re.search(r"layers\.(\d+)", name)
    return int(found[1]) if found else -1
