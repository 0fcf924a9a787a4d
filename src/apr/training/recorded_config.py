"""The config of a run's model: its text part, and the form in which every checkpoint of the run records it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from apr.identity.types import Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def text_values(config: Any) -> dict[str, Any]:
    """The config of the text part, where a config nests one."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else dict(config)


def recorded_config(config: dict[str, Any], architecture: Architecture, model: PreTrainedModel) -> dict[str, Any]:
    """`config` as a checkpoint records it: with the identity and the dtype of the model it stands beside."""
    import transformers

    as_json: dict[str, Any] = json.loads(json.dumps(config, default=str))
    written = {key: value for key, value in as_json.items() if key not in ("torch_dtype", "_name_or_path")}
    written["architectures"] = [architecture.class_name]
    written["model_type"] = architecture.model_type
    written["dtype"] = str(model.dtype).removeprefix("torch.")
    written["transformers_version"] = transformers.__version__
    return written
