"""Headers to facts: who the checkpoint is, under which config, and the plan that would load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from apr.errors import AprError
from apr.formats.base import Checkpoint
from apr.gates.facts import InitFacts
from apr.identity.config import resolve_config
from apr.identity.evidence import model_tensors
from apr.identity.gguf_atlas import atlas_of
from apr.identity.left_out import left_out
from apr.identity.renaming import prefix_to_add
from apr.identity.types import Architecture, Naming, Verdict
from apr.identity.verdict import give_verdict
from apr.loading.plan import make_plan
from apr.loading.scales import without_scales
from apr.loading.target import make_target, make_target_on_meta
from apr.loading.zoo_claim import ZooAnswer, ask_zoo, refuse_absurd_counts

if TYPE_CHECKING:
    from apr.gates.road import RoadOptions


def identify(facts: InitFacts, checkpoint: Checkpoint, options: RoadOptions) -> InitFacts:
    """`facts` with verdict, config and plan; what could not be had of them has a note or an error in its place."""
    # What the user or the class declares tensor by tensor, and scales of 8-bit weights, say nothing of the identity.
    unused = left_out(checkpoint)
    unscaled = _without(without_scales(checkpoint), {**options.allowed_tensors, **unused})
    verdict = give_verdict(unscaled)
    facts = facts._replace(verdict=verdict, embedded_tokenizer_hash=_embedded_hash(checkpoint, options))
    if verdict.claim.unknown and options.may_use_zoo:
        facts = facts._replace(has_asked_zoo=True)
        answer = ask_zoo(unscaled, verdict)
        if answer is not None:
            return _planned_by_zoo(facts, checkpoint, options, answer)
    architecture = architecture_to_load(verdict)
    if architecture is None:
        return facts._replace(plan_note="no architecture is claimed that is known, so there is nothing to plan for")
    try:
        config = resolve_config(unscaled, architecture)
        target = make_target(checkpoint, architecture, config)
        if target is None and options.may_use_zoo:
            refuse_absurd_counts(config.values, checkpoint, atlas_of(architecture).entry(architecture).defaults)
            target = make_target_on_meta(architecture, config)
    except AprError as error:
        return facts._replace(config_error=error, plan_note="the config does not describe a model")
    if target is None:
        note = f"the atlas does not describe {architecture} exactly; a run builds the class itself to plan"
        return facts._replace(config=config, plan_note=note)
    prefix = ""
    if architecture.naming is Naming.HUGGING_FACE:
        prefix = prefix_to_add(atlas_of(architecture).entry(architecture), model_tensors(unscaled))
    plan = make_plan(
        checkpoint, target, dtype=options.dtype, allowed=options.allowed_tensors, left_out=unused, prefix=prefix
    )
    return facts._replace(config=config, plan=plan)


def _without(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    if not names.keys() & checkpoint.tensors.keys():
        return checkpoint
    kept = {name: entry for name, entry in checkpoint.tensors.items() if name not in names}
    return replace(checkpoint, tensors=MappingProxyType(kept))


def _planned_by_zoo(facts: InitFacts, checkpoint: Checkpoint, options: RoadOptions, answer: ZooAnswer) -> InitFacts:
    facts = facts._replace(verdict=answer.verdict, config=answer.config, config_error=answer.error)
    if answer.target is None:
        return facts._replace(plan_note="the config does not describe a model that the zoo can build")
    plan = make_plan(checkpoint, answer.target, dtype=options.dtype, allowed=options.allowed_tensors)
    return facts._replace(plan=plan)


def architecture_to_load(verdict: Verdict) -> Architecture | None:
    """What a loader that trusts the stamps would build: the agreed claim, else what the config names first."""
    claim = verdict.claim
    if claim.architecture is not None:
        return claim.architecture
    readings = sorted(claim.readings, key=lambda reading: not reading[0].place.startswith("config.json"))
    return next((meanings[0] for _, meanings in readings if meanings), None)


def _embedded_hash(checkpoint: Checkpoint, options: RoadOptions) -> str | None:
    """Output hash of the tokenizer inside the checkpoint, computed only when there is another to compare it with."""
    if options.tokenizer is None or options.tokenizer.output_hash is None:
        return None
    files = checkpoint.tokenizer_files()
    if not files:
        return None
    from apr.loading.tokenizer import tokenizer_output_hash

    return tokenizer_output_hash(files)
