"""INV-INIT-CONFIG-001: facts that no tensor shows are recorded, never defaulted, and contradict nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from apr.errors import shell_word
from apr.gates.config_values import plain_weights_called_quantised, unusable_values
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.gguf_keys import key_findings
from apr.identity.types import Naming, Origin, ResolvedConfig
from apr.loading.pinned import drifted_facts

ID = "INV-INIT-CONFIG-001"
_FLOATS = " (epsilons and rope bases with a decimal point: the key takes its type from the value)"

_MOST_FIELDS_SAID = 40


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
            remedy=f"apr stamp {shell_word(facts.local_path)} --set {shell_word(name)}=VALUE -o OUT, "
            "with the value the model was trained with"
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
    undefined = unusable_values(config, facts.checkpoint)[:_MOST_FIELDS_SAID]
    for line in undefined:
        yield Finding(
            ID,
            Status.REFUSE,
            f"a recorded fact is no number a model can compute with: {line}",
            expected="the value the model was trained with",
            found=line,
            remedy=f"apr stamp {shell_word(facts.local_path)} --set {shell_word(line.partition(' ')[0])}=VALUE -o OUT",
        )
    method = None if facts.checkpoint is None else plain_weights_called_quantised(facts.checkpoint)
    if method is not None:
        yield Finding(
            ID,
            Status.REFUSE,
            f"the config says that the weights are quantised by {method}, and every one of them is stored plain",
            expected=f"packed or 8-bit matrices, as {method} stores them, or no quantization_config",
            found="matrices of " + ", ".join(sorted(_matrix_dtypes(facts))),
            remedy="fetch the quantised weights, or, if they were unpacked on purpose: "
            f"apr stamp {shell_word(facts.local_path)} --set quantization_config=null --in-place",
        )
    wrong_keys = tuple(key_findings(facts, ID))
    yield from wrong_keys
    drifted = _drifted(facts)[:_MOST_FIELDS_SAID]
    for line in drifted:
        yield Finding(
            ID,
            Status.REFUSE,
            f"the config is not the one the weights were saved with: {line}",
            expected="the value pinned in the checkpoint's record",
            found=line,
            remedy="restore the value, or, if it is meant: "
            f"apr stamp {shell_word(facts.local_path)} --set NAME=VALUE -o OUT",
        )
    if not (config.missing or config.conflicts or undefined or method or wrong_keys or drifted):
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


def _matrix_dtypes(facts: InitFacts) -> set[str]:
    tensors = () if facts.checkpoint is None else facts.checkpoint.tensors.values()
    return {str(entry.dtype) for entry in tensors if len(entry.shape) > 1}


GATE = Gate(ID, "facts that no tensor shows are recorded", Stage.HEADERS, _check)
