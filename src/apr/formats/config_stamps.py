"""The stamps a Hugging Face config carries, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr.formats.base import Stamp, StampKey


def config_stamps(config: Mapping[str, Any], place: str) -> tuple[Stamp, ...]:
    """`architectures[0]` and `model_type` of `config`; `place` names the config to the user (`config.json`)."""
    stamps = []
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str) and architectures[0]:
        key = StampKey.CONFIG_ARCHITECTURES
        stamps.append(Stamp(key, architectures[0], f"{place}: {key.value}"))
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type:
        key = StampKey.CONFIG_MODEL_TYPE
        stamps.append(Stamp(key, model_type, f"{place}: {key.value}"))
    return tuple(stamps)
