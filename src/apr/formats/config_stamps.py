"""The stamps a Hugging Face config carries, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apr.formats.base import Stamp, StampKey

_LONGEST_SHOWN = 80


def config_stamps(config: Mapping[str, Any], place: str) -> tuple[Stamp, ...]:
    """`architectures[0]` and `model_type` of `config`; `place` names the config to the user (`config.json`).

    What stands there and is no name is a stamp too, which no architecture answers to.
    """
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else architectures
    if first is None and architectures:
        first = architectures
    given = {StampKey.CONFIG_ARCHITECTURES: first, StampKey.CONFIG_MODEL_TYPE: config.get("model_type")}
    said = {key: value for key, value in given.items() if value not in (None, "", [])}
    return tuple(Stamp(key, _word(value), f"{place}: {key.value}") for key, value in said.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)[:_LONGEST_SHOWN]
