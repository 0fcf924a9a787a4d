"""INV-INIT-CONFIG-001: facts that no tensor shows are recorded, never defaulted, and contradict nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.gguf_keys import key_findings
from apr.identity.atlas import load_atlas
from apr.identity.config import is_number
from apr.identity.typed_config import EPSILON_FIELD
from apr.identity.types import Naming, Origin, ResolvedConfig
from apr.loading.pinned import drifted_facts

ID = "INV-INIT-CONFIG-001"
_FLOATS = " (epsilons and rope bases with a decimal point: the key takes its type from the value)"


def _check(facts: InitFacts) -> Iterable[Finding]:
    config = facts.config
    if config is None:
        yield Finding(ID, Status.UNCHECKED, "no config could be resolved")
        return
    for name in config.missing:
        yield Finding(
            ID,
            Status.REFUSE,
            f"{name} is recorded nowhere, and no tensor shows it",
            expected=f"{name} of {config.architecture} in the checkpoint's metadata or config",
            found="absent",
            remedy=f"apr stamp {facts.local_path} --set {name}=VALUE -o OUT, with the value the model was trained with"
            + (_FLOATS if config.architecture.naming is Naming.GGUF else ""),
        )
    for conflict in config.conflicts:
        yield Finding(
            ID,
            Status.REFUSE,
            f"recorded facts contradict each other or the tensors: {conflict}",
            expected="one value for each fact",
            found=conflict,
        )
    undefined = _undefined(config)
    for line in undefined:
        yield Finding(
            ID,
            Status.REFUSE,
            f"a recorded fact is no number a model can compute with: {line}",
            expected="the value the model was trained with",
            found=line,
            remedy=f"apr stamp {facts.path} --set {line.partition(' ')[0]}=VALUE -o OUT",
        )
    wrong_keys = tuple(key_findings(facts, ID))
    yield from wrong_keys
    drifted = _drifted(facts)
    for line in drifted:
        yield Finding(
            ID,
            Status.REFUSE,
            f"the config is not the one the weights were saved with: {line}",
            expected="the value pinned in the checkpoint's record",
            found=line,
            remedy=f"restore the value, or, if it is meant: apr stamp {facts.local_path} --set NAME=VALUE -o OUT",
        )
    if not (config.missing or config.conflicts or undefined or wrong_keys or drifted):
        defaulted = sorted({*_of_the_class(config)})
        note = f"; not in the file, so as its class defines them: {', '.join(defaulted)}" if defaulted else ""
        yield Finding(ID, Status.PASS, f"the facts that no tensor shows are recorded{note}")


def _drifted(facts: InitFacts) -> tuple[str, ...]:
    if facts.checkpoint is None or facts.config is None:
        return ()
    recorded = facts.checkpoint.recorded
    return drifted_facts(recorded.config_facts, facts.checkpoint.config or {}, facts.config.values, recorded.history)


def _of_the_class(config: ResolvedConfig) -> Iterator[str]:
    """Fields that the file leaves to its class; a rotary base also where the file gives the rest of the settings."""
    for name, origin in config.origins.items():
        if origin is Origin.CLASS_DEFAULT:
            yield name
    rope = config.values.get("rope_parameters")
    if "rope_parameters" in config.values and not (rope and isinstance(rope, Mapping)):
        yield "rope_parameters"
    elif isinstance(rope, Mapping) and "rope_type" in rope and "rope_theta" not in rope:
        yield "rope_parameters.rope_theta"


def _undefined(config: ResolvedConfig) -> tuple[str, ...]:
    """`name = value` of known fields that no model can compute with.

    NaN, infinity where the class has a finite default, an epsilon below 0, a rotary base of 0 or below. The keys of a
    GGUF file, for which no class has defaults, are checked when they are read, and by `gguf_keys`.
    """
    if config.architecture.naming is Naming.GGUF:
        return ()
    entry = load_atlas().find_class(config.architecture.class_name, config.architecture.model_type)
    defaults = entry.defaults if entry is not None else {}
    return tuple(
        f"{name} = {value}"
        for field, held in config.values.items()
        if field in defaults and config.origins.get(field) is not Origin.CLASS_DEFAULT
        for name, value in _numbers(field, held)
        if _is_unusable(name, value, default=defaults[field])
    )


def _is_unusable(name: str, value: float, default: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        is_meant_finite = is_number(default) and default not in (math.inf, -math.inf)
        return math.isnan(value) or is_meant_finite or name.startswith("rope_parameters")
    return (value < 0 and re.search(EPSILON_FIELD, name) is not None) or (value <= 0 and name.endswith("rope_theta"))


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if is_number(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield from _numbers(f"{name}.{key}", held)


GATE = Gate(ID, "facts that no tensor shows are recorded", Stage.HEADERS, _check)
