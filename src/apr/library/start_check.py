"""What the callbacks promise, whatever trainer they sit in: the named weights are resident, and the loss at step 0 is
theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError, in_lines
from apr.formats.peft.read import is_adapter_directory
from apr.gates import fresh_state as fresh_gate
from apr.gates.adapters.facts import open_adapter
from apr.gates.facts import Fresh, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.gates.runner import run_stage
from apr.library.api import verify_loaded
from apr.library.holding import NO_REASONS
from apr.library.naming import NameMap
from apr.library.refusal import refused
from apr.library.source import cached_source
from apr.library.step0 import LossOf, judge_loss, measure_loss, predicted_vocabulary
from apr.library.wrappers import unwrap

if TYPE_CHECKING:
    import torch

    from apr.loading.receipt import Receipt


@dataclass(frozen=True)
class StartTerms:
    """What a run declares about its start. source: the path whose weights must be resident; an adapter directory means
    its base model under that adapter. expected_loss: on the validation set, in nats; None: beat ln(vocabulary).
    tolerance_relative: None for that of the model's dtype. The rest as for `apr.verify_loaded`.
    """

    source: Path
    adapter: Path | None = None
    fresh_adapter: bool = False
    name_map: NameMap | None = None
    dtype: Any = None
    expected_loss: float | None = None
    tolerance_relative: float | None = None
    loss_of: LossOf | None = None
    probe: bool = True
    allowed_tensors: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)
    allowed_gates: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)


@dataclass(frozen=True)
class Start:
    """A start that was accepted. loss: at step 0, None where no validation set was there; findings: of step 0."""

    receipt: Receipt
    loss: float | None
    findings: tuple[Finding, ...]


class VerifiedStart:
    """What both callbacks are made from; each adds when its trainer calls `check_start`.

    `start` holds receipt, loss and findings once training has begun.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        validation: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
        expected_loss: float | None = None,
        tolerance: float | None = None,
        loss_of: LossOf | None = None,
        adapter: str | os.PathLike[str] | None = None,
        fresh_adapter: bool = False,
        name_map: NameMap | None = None,
        dtype: torch.dtype | str | None = None,
        probe: bool = True,
        allowed_tensors: Mapping[str, str] = NO_REASONS,
        allowed_gates: Mapping[str, str] = NO_REASONS,
    ) -> None:
        super().__init__()
        self.terms = StartTerms(
            _fixed(source),
            adapter=None if adapter is None else _fixed(adapter),
            fresh_adapter=fresh_adapter,
            name_map=name_map,
            dtype=dtype,
            expected_loss=expected_loss,
            tolerance_relative=tolerance,
            loss_of=loss_of,
            probe=probe,
            allowed_tensors=allowed_tensors,
            allowed_gates=allowed_gates,
        )
        self.validation = validation
        self.start: Start | None = None

    def batches(self, of_trainer: Iterable[Any] | None) -> Iterable[Any] | None:
        """The validation set that was named, else the trainer's own."""
        named = self.validation() if callable(self.validation) else self.validation
        return of_trainer if named is None else named


def _fixed(name: str | os.PathLike[str]) -> Path:
    """`name` where it stands now, as a run may change its directory before it starts; a hub id as it is."""
    path = Path(name)
    return path.absolute() if path.exists() else path


def check_start(
    terms: StartTerms,
    model: torch.nn.Module,
    batches: Iterable[Any] | None,
    *,
    fresh: Fresh | None,
    step: int,
    precision: str | None = None,
) -> Start:
    """Verify what is resident in `model`, then measure the loss; RefusedError with all findings of the part that
    refused.

    batches: the validation set, None when there is none. fresh: what optimizer and schedule hold, None when they are
    resumed on purpose. step: updates made before, by a resumed run. precision: dtype the trainer computes in.
    """
    source, adapter = _base_and_adapter(terms)
    try:
        receipt = verify_loaded(
            model,
            source,
            name_map=terms.name_map,
            dtype=terms.dtype,
            adapter=adapter,
            fresh_adapter=terms.fresh_adapter,
            probe=terms.probe,
            allowed_tensors=terms.allowed_tensors,
            allowed_gates=terms.allowed_gates,
        )
    except RefusedError as error:
        raise _with_hint(error, terms, step) from error
    measured = None if batches is None else measure_loss(model, batches, terms.loss_of)
    findings = judge_loss(
        measured,
        vocabulary_size=_floor(model, terms),
        expected_loss=terms.expected_loss,
        tolerance_relative=_tolerance(terms, model, precision),
        allowed_gates=terms.allowed_gates,
        note="there is no validation set" if batches is None else "no batch of it yields a loss; give loss_of",
    )
    if fresh is not None:
        facts = InitFacts(source, fresh=fresh)
        findings += run_stage(Stage.STEP_0, facts, terms.allowed_gates, [fresh_gate.GATE])
    if any(finding.status is Status.REFUSE for finding in findings):
        raise refused("training would not start from where the named weights are", findings, where=str(source))
    return Start(receipt, None if measured is None else measured.loss, findings)


def fresh_state(optimizer: Any, scheduler: Any) -> Fresh | None:
    """What an optimizer and a scheduler hold before the first step, looked up through accelerate's wrappers.

    State that is there from the start and says that no step was taken (`Adagrad`) is not counted.
    """
    if optimizer is None:
        return None
    optimizer = getattr(optimizer, "optimizer", optimizer)
    scheduler = getattr(scheduler, "scheduler", scheduler)
    states = [state for state in optimizer.state.values() if isinstance(state, dict)]
    count = sum(len(state) for state in states if float(state.get("step", 1)) > 0)
    return Fresh(optimizer_state_count=count, schedule_step=int(getattr(scheduler, "last_epoch", 0) or 0))


def _base_and_adapter(terms: StartTerms) -> tuple[Path, Path | None]:
    if not is_adapter_directory(terms.source):
        return terms.source, terms.adapter
    opened = open_adapter(terms.source, find_base=cached_source)
    opened.checkpoint.close()
    if opened.base is None:
        raise RefusedError(
            f"the base of the adapter cannot be verified: {opened.base_note}",
            where=str(terms.source),
            remedy="name the base model as the source, and the adapter with adapter=PATH",
            invariant="FALSIFY-APR-PRETRAIN-INIT-003",
        )
    return opened.base, terms.source


def _with_hint(error: RefusedError, terms: StartTerms, step: int) -> RefusedError:
    """The refusal of a resumed run names the usual cause first: the run goes on from its own checkpoint."""
    if step == 0:
        return error
    hint = (
        f"the run was resumed at step {step}: if {terms.source} is where it began, name the checkpoint it goes on from"
    )
    return RefusedError(
        error.what,
        where=error.where,
        expected=error.expected,
        found=error.found,
        remedy=in_lines(hint, error.remedy) if error.remedy else hint,
        invariant=error.invariant,
        findings=error.findings,
    )


def _floor(model: torch.nn.Module, terms: StartTerms) -> int | None:
    """The vocabulary whose uniform guess has to be beaten; None for heads that are new, as they know nothing yet."""
    return None if terms.allowed_tensors else predicted_vocabulary(unwrap(model).module)


def _tolerance(terms: StartTerms, model: torch.nn.Module, precision: str | None) -> float:
    from apr.loading.probe import loss_tolerance

    if terms.tolerance_relative is not None:
        return terms.tolerance_relative
    return loss_tolerance(str(next(model.parameters()).dtype).removeprefix("torch."), precision)
