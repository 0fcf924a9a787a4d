"""Recorded config values that no model can compute with, each as a line `name = value`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from apr.formats.base import Checkpoint
from apr.identity.atlas import load_atlas
from apr.identity.rope import is_number
from apr.identity.typed_config import EPSILON_FIELD
from apr.identity.types import Naming, Origin, ResolvedConfig
from apr.loading.scales import PACKED_DTYPES, SCALED_DTYPES

LARGEST_EPSILON = 1.0
"""Norms divide by the root of a variance plus epsilon; the largest one in use is 1e-3."""

DIVIDED_OR_MULTIPLIED_BY = r"(multiplier|softcap|softcapping|logit_scale|logits_scaling|query_pre_attn_scalar)$"
"""Factors of a whole activation: with 0, everything before them is gone, or divided by nothing."""

ROPE_FACTOR = r"^rope_parameters\.(.*\.)?([a-z_]*_)?factor$"

EXPERTS_USED = ("num_experts_per_tok", "moe_topk", "moe_k")
EXPERTS_STORED = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")

WEIGHTS_OF_A_METHOD = ("gptq", "awq", "bitsandbytes", "fp8", "fbgemm_fp8", "aqlm", "vptq", "spqr", "higgs")
"""Methods of `quantization_config` by which transformers expects packed or 8-bit matrices in the file.

Others may stand over plain weights: they are quantised at every load (BitNet), unpacked (MXFP4), or described as dense
(compressed-tensors)."""


def unusable_values(config: ResolvedConfig, checkpoint: Checkpoint | None = None) -> tuple[str, ...]:
    """Recorded fields that are no number a model can compute with.

    NaN, infinity where the class has a finite default, an epsilon below 0 or above 1, a rotary base or factor of 0 or
    below, a factor of an activation that is 0, more experts for a token than there are where `checkpoint` has some,
    lists of layers of another length than the model. The keys of a GGUF file, for which no class has defaults, are
    checked when they are read.
    """
    if config.architecture.naming is Naming.GGUF:
        return ()
    entry = load_atlas().find_class(config.architecture.class_name, config.architecture.model_type)
    defaults = entry.defaults if entry is not None else {}
    recorded = {
        field: held
        for field, held in config.values.items()
        if field in defaults and config.origins.get(field) is not Origin.CLASS_DEFAULT
    }
    lines = [
        f"{name} = {value}"
        for field, held in recorded.items()
        for name, value in _numbers(field, held)
        if _is_unusable(name, value, default=defaults[field])
    ]
    # A class that can be a mixture or dense (Doge) has the fields in either case.
    has_experts = checkpoint is not None and any("expert" in name for name in checkpoint.tensors)
    experts = _impossible_experts(config, recorded) if has_experts else ()
    return (*lines, *experts, *_wrong_layers(config, recorded))


def plain_weights_called_quantised(checkpoint: Checkpoint) -> str | None:
    """The method that the config says the weights are quantised by, when every one of them is stored plain."""
    declared = (checkpoint.config or {}).get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, Mapping) else None
    if method not in WEIGHTS_OF_A_METHOD:
        return None
    dtypes = {entry.dtype for entry in checkpoint.tensors.values() if len(entry.shape) > 1}
    return None if not dtypes or dtypes & (PACKED_DTYPES | SCALED_DTYPES) else str(method)


def _is_unusable(name: str, value: float, default: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        is_meant_finite = is_number(default) and default not in (math.inf, -math.inf)
        return math.isnan(value) or is_meant_finite or name.startswith("rope_parameters")
    if re.search(EPSILON_FIELD, name):
        return value < 0 or value > LARGEST_EPSILON
    if re.search(DIVIDED_OR_MULTIPLIED_BY, name):
        return value == 0 and default != 0
    return value <= 0 and (name.endswith("rope_theta") or re.search(ROPE_FACTOR, name) is not None)


def _impossible_experts(config: ResolvedConfig, recorded: Mapping[str, Any]) -> Iterator[str]:
    used = [name for name in EXPERTS_USED if _is_count(config.values.get(name))]
    stored = [name for name in EXPERTS_STORED if _is_count(config.values.get(name)) and config.values[name] > 0]
    if len(used) == len(stored) == 1 and {*used, *stored} & recorded.keys():
        count, most = config.values[used[0]], config.values[stored[0]]
        if not 1 <= count <= most:
            yield f"{used[0]} = {count} with {stored[0]} = {most}"
    groups, chosen = config.values.get("n_group"), recorded.get("topk_group")
    if isinstance(groups, int) and isinstance(chosen, int) and 0 < groups < chosen:
        yield f"topk_group = {chosen} with n_group = {groups}"


def _wrong_layers(config: ResolvedConfig, recorded: Mapping[str, Any]) -> Iterator[str]:
    """Lists with a word for each layer; transformers raises where they have another length."""
    count = config.values.get("num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types"):
        held = recorded.get(name)
        if isinstance(held, list | tuple) and _is_count(count) and len(held) != count:
            yield f"{name} = {len(held)} words with num_hidden_layers = {count}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if is_number(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield from _numbers(f"{name}.{key}", held)
