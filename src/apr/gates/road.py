"""The one road from a path to a model that may be trained, walked by every caller.

`preflight`, `pretrain --init`, `import` and `stamp` all come through here: examine (headers), deepen (every byte), load
(resident model, receipt, buffers, probe), check_step0. Each step keeps all findings; a caller that wants to go on calls
`refuse_unless_accepted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from apr.errors import AprError, DamagedFileError, NotFoundError, RefusedError
from apr.formats.base import Checkpoint, Stamp, StampKey
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.gates.coverage import unloadable
from apr.gates.facts import Fresh, InitFacts, Stage, Step0, TokenizerFacts, Written, allow_on_the_command_line
from apr.gates.finding import Finding, Status
from apr.gates.identification import identify
from apr.gates.presence import refusal
from apr.gates.runner import check_overrides, run_stage
from apr.identity.types import Kind
from apr.loading.plan import counted_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from apr.loading.receipt import Receipt
    from apr.storage.remote.address import Download


_NO_REASONS: Mapping[str, str] = MappingProxyType({})


class RoadOptions(NamedTuple):
    """How to walk: what the run needs, and what the user knowingly allows.

    run_kind: what the run trains, None to ask of no run in particular. dtype: of the resident parameters, None for the
    file's own. may_use_zoo: whether torch may be imported when the atlas cannot tell a class's tensors exactly.
    allowed_tensors, allowed_gates: name or id to the user's reason.
    retry_command: shown after a repair recipe, with `{path}` for the repaired checkpoint. allow_words: how this caller
    lets the tensor of a name through. load_as: a class or model type to take for the claim in
    place of every stamp ("what if it were loaded as ..."). download: how a checkpoint on another machine comes to this
    one, which remedies then begin with.
    """

    run_kind: Kind | None = Kind.DECODER
    dtype: DType | None = None
    may_use_zoo: bool = False
    tokenizer: TokenizerFacts | None = None
    allowed_tensors: Mapping[str, str] = _NO_REASONS
    allowed_gates: Mapping[str, str] = _NO_REASONS
    retry_command: str = "apr pretrain --init {path} ..."
    allow_words: Callable[[str], str] = allow_on_the_command_line
    load_as: str | None = None
    download: Download | None = None


class Examination(NamedTuple):
    """Where a walk stands: the facts so far and every finding so far, in order."""

    facts: InitFacts
    findings: tuple[Finding, ...]
    options: RoadOptions

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status is Status.REFUSE)

    @property
    def is_accepted(self) -> bool:
        return not self.refusals

    def close(self) -> None:
        if self.facts.checkpoint is not None:
            self.facts.checkpoint.close()


class LoadedModel(NamedTuple):
    """A resident model with the proof of what is in it."""

    model: PreTrainedModel
    receipt: Receipt
    examination: Examination


def examine(
    path: Path, options: RoadOptions | None = None, *, opening: Callable[[Path], Checkpoint] = open_checkpoint
) -> Examination:
    """Headers only: open, identify, plan, and let every header gate speak. Raises nothing for a bad checkpoint.

    opening: what opens `path`, where that is an address.
    """
    options = options or RoadOptions()
    try:
        checkpoint = opening(path)
    except AprError as error:
        facts = _facts(path, options)._replace(opening_error=error, plan_note="there is no header to plan from")
        return Examination(facts, run_stage(Stage.HEADERS, facts, options.allowed_gates), options)
    return examine_opened(checkpoint, options)


def examine_opened(checkpoint: Checkpoint, options: RoadOptions | None = None) -> Examination:
    """As `examine`, of a checkpoint that is open already, or whose facts are those of a file still to be written."""
    options = options or RoadOptions()
    if options.load_as is not None:
        stamp = Stamp(StampKey.APR_HF_ARCHITECTURE, options.load_as, "--as")
        checkpoint = replace(checkpoint, stamps=(stamp,))
    facts = identify(_facts(checkpoint.path, options)._replace(checkpoint=checkpoint), checkpoint, options)
    return Examination(facts, run_stage(Stage.HEADERS, facts, options.allowed_gates), options)


def _facts(path: Path, options: RoadOptions) -> InitFacts:
    check_overrides(options.allowed_gates)
    return InitFacts(
        path=path,
        run_kind=options.run_kind,
        tokenizer=options.tokenizer,
        allowed_tensors=options.allowed_tensors,
        retry_command=options.retry_command,
        allow_words=options.allow_words,
        download=options.download,
    )


def deepen(examination: Examination) -> Examination:
    """Read every byte once more than a plain load would: checksums, digests, values; then the value gates."""
    from apr.loading.digest import weights_digest
    from apr.loading.values import read_values

    facts = examination.facts
    if facts.checkpoint is None:
        return examination
    entries = [entry for entry in facts.checkpoint.tensors.values() if not entry.is_placeholder]
    try:
        values = read_values(entries)
        problems = facts.checkpoint.verify_checksums({name: seen.sums for name, seen in values.items()})
    except DamagedFileError as error:
        finding = Finding(
            "INV-FILE-INTEGRITY-001", Status.REFUSE, f"{error.what} ({error.where})", error.expected, error.found
        )
        return examination._replace(findings=(*examination.findings, finding))
    digest = weights_digest(values[name].digest for name in counted_names(facts.checkpoint, facts.plan))
    facts = facts._replace(values=values, checksum_problems=problems, source_digest=digest)
    return _advance(examination, facts, Stage.VALUES)


def load(examination: Examination, *, device: str = "cpu", attention: str | None = None) -> LoadedModel:
    """The model on `device`, after every gate up to the probe has accepted it; RefusedError otherwise.

    An examination that was not deepened is deepened first: there is no load without the values read.
    """
    model, examination = try_load(examination, device=device, attention=attention)
    refuse_unless_accepted(examination)
    if model is None or examination.facts.receipt is None:
        raise RefusedError(
            "there is no load plan, so nothing can be loaded",
            where=str(examination.facts.path),
            found=examination.facts.plan_note,
            invariant="INV-INIT-COVERAGE-001",
        )
    return LoadedModel(model, examination.facts.receipt, examination)


def try_load(
    examination: Examination, *, device: str = "cpu", attention: str | None = None
) -> tuple[PreTrainedModel | None, Examination]:
    """As `load`, but a refusal is a finding: no model comes back with it unless the resident gates refused."""
    from apr.loading.buffers import check_buffers
    from apr.loading.materialise import check_unchanged_since, materialise
    from apr.loading.receipt import write_receipt
    from apr.loading.target import refuse_unexplained_buffers

    examination = _with_unloadable(examination)
    if examination.facts.values is None and examination.is_accepted:
        examination = deepen(examination)
    facts = examination.facts
    if not examination.is_accepted or facts.checkpoint is None or facts.plan is None or facts.values is None:
        return None, examination
    try:
        refuse_unexplained_buffers(facts.plan, facts.checkpoint)
        materialised = materialise(facts.checkpoint, facts.plan, attention=attention)
    except (DamagedFileError, RefusedError) as error:
        return None, examination._replace(findings=(*examination.findings, refusal(error.invariant or "", error)))
    digests = {name: seen.blake3_hex for name, seen in facts.values.items()}
    check_unchanged_since(materialised.loaded, digests, facts.path)
    model = materialised.model.to(device)
    receipt = write_receipt(facts.checkpoint, facts.plan, materialised.loaded, model)
    facts = _behaviour(facts._replace(receipt=receipt, buffers=check_buffers(model)), model)
    return model, _advance(examination, facts, Stage.RESIDENT)


def refuse_unloadable(examination: Examination) -> None:
    """Raise RefusedError for a checkpoint that is examined and never loaded; before its bytes are read for nothing."""
    refuse_unless_accepted(_with_unloadable(examination))


def _with_unloadable(examination: Examination) -> Examination:
    finding = unloadable(examination.facts)
    return examination if finding is None else examination._replace(findings=(*examination.findings, finding))


def _behaviour(facts: InitFacts, model: PreTrainedModel) -> InitFacts:
    """The facts with what the model does: the recorded probe replayed, else whether it computes at all."""
    from apr.loading.probe import check_that_it_runs, replay_probe

    assert facts.checkpoint is not None
    assert facts.plan is not None
    recorded, note = facts.checkpoint.recorded.probe, None
    try:
        if recorded is not None:
            return facts._replace(probe=replay_probe(model, recorded))
        # Half precision overflows in healthy models, and not every operation has it on a CPU.
        if facts.plan.target.architecture.kind is Kind.DECODER and facts.plan.dtype in {DType.F32, DType.BF16}:
            note = check_that_it_runs(model, is_causal=facts.run_kind is Kind.DECODER)
        return facts._replace(probe_note=note or "the checkpoint records no probe")
    except DamagedFileError as error:
        return facts._replace(probe_error=error)


def check_step0(examination: Examination, step0: Step0, fresh: Fresh) -> Examination:
    """The examination with the step-0 gates: the loss continues, optimizer and schedule start fresh."""
    return _advance(examination, examination.facts._replace(step0=step0, fresh=fresh), Stage.STEP_0)


def check_saved(path: Path, written: Written) -> Examination:
    """A checkpoint that was just written, reopened from disk and walked through headers, bytes and identity.

    The caller decides what a refusal means; closing the examination's files is done here.
    """
    examination = deepen(examine(path, RoadOptions(may_use_zoo=True)))
    try:
        return _advance(examination, examination.facts._replace(written=written), Stage.SAVED)
    finally:
        examination.close()


def refuse_unless_accepted(examination: Examination) -> None:
    """Raise what the user has to know, all findings at once; return when nothing refuses.

    A missing path raises NotFoundError, a file of no known format DamagedFileError, everything else RefusedError.
    """
    if examination.is_accepted:
        return
    facts, refusals = examination.facts, examination.refusals
    error = facts.opening_error
    if isinstance(error, NotFoundError) or (error is not None and error.invariant != "INV-FILE-INTEGRITY-001"):
        raise type(error)(
            error.what,
            where=error.where,
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
            invariant=refusals[0].id,
        ) from error
    raise RefusedError(
        f"{facts.path} would not start from the weights it names: {len(refusals)} finding"
        + ("s" if len(refusals) != 1 else ""),
        invariant=refusals[0].id,
        findings=tuple(finding.to_json() for finding in refusals),
    )


def _advance(examination: Examination, facts: InitFacts, stage: Stage) -> Examination:
    findings = run_stage(stage, facts, examination.options.allowed_gates)
    return examination._replace(facts=facts, findings=(*examination.findings, *findings))
