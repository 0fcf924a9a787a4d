"""Architectures the atlas lacks: the claim read with the zoo's own names, the evidence from the class itself.

Only classes that the installed transformers defines are ever built, on the meta device, from the values of a config:
never code that a checkpoint names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

from apr.errors import AprError, DamagedFileError
from apr.formats.base import Checkpoint, Stamp
from apr.identity.claim import normalise
from apr.identity.folding import fold_names
from apr.identity.rope import is_number
from apr.identity.types import (
    Architecture,
    Candidate,
    Claim,
    Kind,
    Origin,
    ResolvedConfig,
    Verdict,
    VerdictKind,
)
from apr.loading.ledger import Target
from apr.loading.plan import make_plan

_OF_THE_FILE = frozenset({"architectures", "model_type", "auto_map", "transformers_version", "_name_or_path"})

COUNT_FIELD = r"(^|_)(layers?|blocks?|experts?|heads?|labels|stages|groups|codebooks|depth|depths|modules)(_per_\w+)?$"
"""Config fields that make a class build that many parts, each of which takes memory even without weights."""

MOST_PARTS = 4096


class ZooAnswer(NamedTuple):
    """A verdict on a claim that only the zoo knows. error: why its config describes no model, then target is None."""

    verdict: Verdict
    config: ResolvedConfig | None
    target: Target | None
    error: AprError | None = None


def ask_zoo(checkpoint: Checkpoint, verdict: Verdict) -> ZooAnswer | None:
    """The verdict with the zoo's classes for stamps that the atlas does not know; None when the zoo does not either.

    Needs torch and transformers. Raises nothing for a bad checkpoint.
    """
    claim = _claim_of_zoo(verdict.claim)
    if claim is None:
        return None
    verdict = verdict._replace(claim=claim)
    if claim.architecture is None or checkpoint.config is None:
        return ZooAnswer(verdict, None, None)
    try:
        refuse_absurd_counts(checkpoint.config, checkpoint)
        config = _config_of_zoo(checkpoint.config, claim.architecture)
        target = _target(claim.architecture, config)
    except AprError as error:
        return ZooAnswer(verdict._replace(reasons=(error.what,)), None, None, error)
    return ZooAnswer(_judge(checkpoint, verdict, claim.architecture, target), config, target)


def refuse_absurd_counts(
    config: Mapping[str, Any], checkpoint: Checkpoint, defaults: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise DamagedFileError when a config asks for more parts than the file's tensors can explain.

    defaults: of the config class; a count that the class itself proposes is not absurd (Doge: 16,384 experts, each a
    row of one table).
    """
    most = max(MOST_PARTS, len(checkpoint.tensors))
    for name, value in _numbers(config):
        if is_number(value) and defaults.get(name) == value:
            continue
        if re.search(COUNT_FIELD, name.rpartition(".")[2]) and is_number(value) and not -most <= value <= most:
            raise DamagedFileError(
                f"the config asks for {name} = {value}, which this file cannot fill",
                where=str(checkpoint.config_place or checkpoint.path),
                expected=f"at most {most}: the file holds {len(checkpoint.tensors)} tensors",
                found=f"{value}",
                invariant="FALSIFY-APR-PRETRAIN-INIT-005",
            )


def _numbers(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and depth < 4:
            yield from _numbers(value, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, list):
            yield from ((f"{prefix}{key}", each) for each in value if is_number(each))
        else:
            yield f"{prefix}{key}", value


def _claim_of_zoo(claim: Claim) -> Claim | None:
    meant = [(stamp, zoo_architectures(stamp.value)) for stamp in claim.unknown]
    known = [(stamp, meanings) for stamp, meanings in meant if meanings]
    unknown = [stamp for stamp, meanings in meant if not meanings]
    if not known:
        return None
    more = [each for _, meanings in known for each in meanings]
    readings = [(stamp, _with_more_classes(stamp, meanings, more)) for stamp, meanings in claim.readings] + known
    disagreements = tuple(
        (one, two) for (one, first), (two, second) in combinations(readings, 2) if not set(first) & set(second)
    )
    common = [each for each in readings[0][1] if all(each in meanings for _, meanings in readings)]
    agreed = common[0] if common and not unknown and not disagreements else None
    return Claim(agreed, tuple(readings), tuple(unknown), disagreements)


def _with_more_classes(
    stamp: Stamp, meanings: tuple[Architecture, ...], more: Iterable[Architecture]
) -> tuple[Architecture, ...]:
    """What a stamp means when a model type has more classes than the atlas has: a model type means those as well."""
    if any(normalise(each.class_name) == normalise(stamp.value) for each in meanings):
        return meanings
    model_types = {each.model_type for each in meanings}
    return (*meanings, *(each for each in more if each.model_type in model_types and each not in meanings))


def zoo_architectures(name: str) -> tuple[Architecture, ...]:
    """What a class name or a model type means in the installed transformers, causal language models first."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    by_task = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    if name in CONFIG_MAPPING_NAMES:
        classes = [each for names in by_task if (each := names.get(name)) is not None]
        flat = [each for one in classes for each in ((one,) if isinstance(one, str) else one)]
        return tuple(Architecture(each, name, _kind(each, name)) for each in dict.fromkeys(flat))
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        return ()
    model_type = str(getattr(getattr(found, "config_class", None), "model_type", "") or "")
    if model_type not in CONFIG_MAPPING_NAMES:
        return ()
    others = [each for names in by_task for each, classes in names.items() if name in classes and each != model_type]
    return tuple(Architecture(name, each, _kind(name, each)) for each in (model_type, *others))


def _kind(class_name: str, model_type: str) -> Kind:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    if class_name == MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(model_type):
        return Kind.SEQ2SEQ
    if re.search("Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction", class_name):
        return Kind.CLASSIFICATION
    is_decoder = class_name == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) or class_name.endswith(
        ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel")
    )
    return Kind.DECODER if is_decoder else Kind.ENCODER


def _config_of_zoo(recorded: Mapping[str, Any], architecture: Architecture) -> ResolvedConfig:
    from apr.loading.zoo import build_config

    values = {key: value for key, value in recorded.items() if key not in _OF_THE_FILE}
    values["model_type"] = architecture.model_type
    origins = dict.fromkeys(values, Origin.RECORDED)
    config = ResolvedConfig(architecture, MappingProxyType(values), MappingProxyType(origins), ())
    built = build_config(config).to_dict()
    for name, value in built.items():
        if name not in values and name not in _OF_THE_FILE:
            values[name], origins[name] = value, Origin.CLASS_DEFAULT
    return config


def _target(architecture: Architecture, config: ResolvedConfig) -> Target:
    from apr.loading.target import make_target_on_meta

    return make_target_on_meta(architecture, config)


def _judge(checkpoint: Checkpoint, verdict: Verdict, architecture: Architecture, target: Target) -> Verdict:
    ledger = make_plan(checkpoint, target).ledger
    own = Candidate(
        architecture,
        tuple(name for name, _ in fold_names(ledger.unfilled)),
        tuple(name for name, _ in fold_names(ledger.unused)),
        tuple(f"{each.name}: {list(each.found)}, not {list(each.expected)}" for each in ledger.shape_conflicts),
        MappingProxyType({}),
    )
    others = verdict.evidence.candidates
    if not own.explains_all:
        kind, reason = VerdictKind.CONTRADICTION, f"the stamps say {architecture}, its class wants other tensors"
        evidence = verdict.evidence._replace(runner_up=own)
    else:
        kind = VerdictKind.AMBIGUOUS if others else VerdictKind.MATCH
        reason = f"the tensors are those of {architecture}, as its class builds them; the atlas does not know it"
        evidence = verdict.evidence._replace(candidates=(own, *others), runner_up=None, reasons=(reason,))
    return Verdict(kind, verdict.claim, evidence, (reason,))
