"""Tensors that a class leaves out of a file by its own declaration: heads for multi-token prediction.

A published DeepSeek-V3, GLM-4.5 or Qwen3-Next holds, beside the model, a head that predicts more tokens than one. The
zoo's classes have no such part and say so (`_keys_to_ignore_on_load_unexpected`). What they leave out is named in the
ledger with the reason; anything else that a class does not use is refused. Where the head is called a layer, it has to
hold what no layer has (`HEAD_MARK`): a layer that a wrong depth in the config cuts off is no head.
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

HEAD_MARK = "eh_proj.weight"
"""Joins the embedding and the hidden state of a token: in every such head, in no layer (DeepSeek-V3, section 2.2)."""

REASON = "a head for multi-token prediction, which {model_type} leaves out by its own declaration"


def left_out(checkpoint: Checkpoint) -> Mapping[str, str]:
    """Names of such tensors in `checkpoint`, each with the reason, by the model type of its recorded config.

    A layer that the class has under that config is a layer, whatever its number, and so is one without `HEAD_MARK`.
    """
    config = checkpoint.config or {}
    model_type = config.get("model_type")
    patterns = LEFT_OUT.get(model_type, ()) if isinstance(model_type, str) else ()
    names = [name for name in checkpoint.tensors if any(re.search(pattern, name) for pattern in patterns)]
    if not names:
        return MappingProxyType({})
    depth = config.get("num_hidden_layers")
    reason = REASON.format(model_type=model_type)
    return {name: reason for name in names if "mtp" in name or _is_in_head(name, depth, checkpoint)}


def _is_in_head(name: str, depth: object, checkpoint: Checkpoint) -> bool:
    layer = re.match(r"(.*layers\.(\d+)\.)", name)
    return (
        layer is not None
        and isinstance(depth, int)
        and int(layer[2]) >= depth
        and layer[1] + HEAD_MARK in checkpoint.tensors
    )
