"""INV-INIT-CONFIG-001: facts that no tensor shows are recorded, never defaulted, and contradict nothing."""

from __future__ import annotations

from collections.abc import Iterable

from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.identity.types import Origin
from apr.loading.pinned import drifted_facts

ID = "INV-INIT-CONFIG-001"


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
            remedy=f"apr stamp {facts.local_path} --set {name}=VALUE -o OUT, with the value the model was trained with",
        )
    for conflict in config.conflicts:
        yield Finding(
            ID,
            Status.REFUSE,
            f"recorded facts contradict each other or the tensors: {conflict}",
            expected="one value for each fact",
            found=conflict,
        )
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
    if not config.missing and not config.conflicts and not drifted:
        defaulted = sorted(name for name, origin in config.origins.items() if origin is Origin.CLASS_DEFAULT)
        note = f"; not in the file, so as its class defines them: {', '.join(defaulted)}" if defaulted else ""
        yield Finding(ID, Status.PASS, f"the facts that no tensor shows are recorded{note}")


def _drifted(facts: InitFacts) -> tuple[str, ...]:
    if facts.checkpoint is None or facts.config is None:
        return ()
    recorded = facts.checkpoint.recorded
    return drifted_facts(recorded.config_facts, facts.checkpoint.config or {}, facts.config.values, recorded.history)


GATE = Gate(ID, "facts that no tensor shows are recorded", Stage.HEADERS, _check)
