"""One pretraining run from options to result: prepare, measure step 0, train, measure, save, say how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from apr.errors import AprError, ExitCode, GuardStopError, InterruptedResumableError, InterruptedRunError, shell_word
from apr.gates.facts import Fresh
from apr.training.checkpoints import CheckpointContents, SavedCheckpoint, save_checkpoint
from apr.training.devices import utilisation_meter
from apr.training.evaluation import EvaluationStoppedError, evaluate
from apr.training.guards import RunStatus, check_validation, earned_status, epoch_zero_cap, is_out_of_patience
from apr.training.metrics import EvaluationMetrics
from apr.training.observer import Observer, SilentObserver
from apr.training.optimizer import Optimizer
from apr.training.options import PretrainOptions
from apr.training.prepare import Prepared, prepare
from apr.training.record import checkpoint_metadata, run_document, training_record
from apr.training.result import RunResult
from apr.training.run_directory import RunDirectory
from apr.training.step import StepContext, train_step
from apr.training.step0 import judge_step0
from apr.training.token_loss import TokenLoss
from apr.training.versions import library_versions


def pretrain(
    options: PretrainOptions,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train as `options` say and leave the run in its directory.

    should_stop: asked after every step and evaluation batch; True ends the run with a checked checkpoint and
    InterruptedResumableError. Every refusal is raised before the run directory exists: UsageError, NotFoundError,
    DamagedFileError, RefusedError. Afterwards GuardStopError (status ABORTED is on disk), InputOutputError when a
    checkpoint cannot be written.
    """
    observer = observer or SilentObserver()
    return train_prepared(prepare(options, observer), observer, should_stop)


def train_prepared(
    prepared: Prepared, observer: Observer, should_stop: Callable[[], bool] = lambda: False
) -> RunResult:
    """The second half of `pretrain`: measure step 0, then train `prepared`. Raises as `pretrain` does.

    A caller that changed the weights of a model from scratch in between has set `prepared.initial_digest` anew.
    """
    run = _Run(prepared, observer, should_stop)
    return run.train(run.measure_step0())


@dataclass
class _Run:
    prepared: Prepared
    observer: Observer
    should_stop: Callable[[], bool]
    started_s: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.versions = library_versions()
        self.loss = TokenLoss(prepared.model, prepared.vocabulary_rows)
        self.optimizer = Optimizer(prepared.model)
        self.meter = utilisation_meter(prepared.device)
        self.context = StepContext(
            prepared.settings,
            prepared.data.training,
            self.loss,
            self.optimizer,
            prepared.device.name,
            self.meter,
        )

    def measure_step0(self) -> EvaluationMetrics:
        """The evaluation before any update, held against the record of the checkpoint; refuses before a directory."""
        prepared = self.prepared
        self.observer.note(f"evaluating step 0 on {prepared.data.validation.origin}")
        try:
            step0 = self._evaluate(0, None)
        except EvaluationStoppedError as error:
            raise InterruptedRunError("interrupted before the first step; nothing was written") from error
        judge_step0(prepared, step0, Fresh(self.optimizer.state_count, self.optimizer.steps_done))
        self.observer.evaluated(step0)
        rows = prepared.vocabulary_rows
        self.observer.note(f"a uniform guess scores ln({rows:,}) = {math.log(rows):.4f}")
        return step0

    def train(self, step0: EvaluationMetrics) -> RunResult:
        import torch

        prepared, settings = self.prepared, self.prepared.settings
        self.result = RunResult(
            run_directory=prepared.options.run_directory,
            initial_digest=prepared.initial_digest,
            target_validation_loss=settings.target_validation_loss,
            step0=step0,
        )
        self.directory = RunDirectory(prepared.options.run_directory, run_document(prepared, step0, self.meter))
        self.directory.log(step0.to_json())
        torch.manual_seed(prepared.options.seed)
        prepared.model.train()
        self.observer.started(settings.steps)
        try:
            self._train_epochs()
        except GuardStopError as error:
            self._end(RunStatus.ABORTED, str(error.what))
            raise
        except InterruptedRunError as error:
            self._end(RunStatus.INTERRUPTED, error.what)
            raise
        except AprError as error:
            self._end_if_possible(RunStatus.ABORTED, error)
            raise
        finally:
            prepared.model.eval()
            self.directory.close()
        return self.result

    def _train_epochs(self) -> None:
        settings = self.prepared.settings
        last_step = self._last_step()
        is_early_stop = False
        for first in range(1, last_step + 1, settings.steps_per_epoch):
            epoch = (first - 1) // settings.steps_per_epoch
            self._train_epoch(epoch, range(first, min(first + settings.steps_per_epoch, last_step + 1)))
            if is_out_of_patience([each.val_loss for each in self.result.epochs]):
                is_early_stop = True
                break
        status = earned_status(
            last_validation_loss=self.result.final_validation_loss,
            target=settings.target_validation_loss,
            steps_done=len(self.result.steps),
            is_early_stop=is_early_stop,
        )
        self._end(status, self._detail(status, last_step))

    def _train_epoch(self, epoch: int, steps: range) -> None:
        started_s = time.perf_counter()
        for step in steps:
            self._notice_new_pass(step)
            metrics = train_step(self.context, step)
            self.result.steps.append(metrics)
            self.directory.log(metrics.to_json())
            self.observer.stepped(metrics)
            if self.should_stop():
                self._interrupt(epoch, steps, started_s)
        try:
            evaluated = self._evaluate(steps[-1], epoch)
        except EvaluationStoppedError:
            self._interrupt(epoch, steps, started_s)
        self.directory.log(evaluated.to_json())
        self.observer.evaluated(evaluated)
        self.result.epochs.append(evaluated)
        rows = self.prepared.vocabulary_rows
        cap = epoch_zero_cap(self.prepared.settings.epoch_zero_cap, rows)
        check_validation([each.val_loss for each in self.result.epochs], cap)
        self._save(epoch, steps, evaluated.val_loss, time.perf_counter() - started_s)

    def _interrupt(self, epoch: int, steps: range, started_s: float) -> NoReturn:
        """Save what was learned and leave; the validation loss of the cut epoch was not measured, and is null."""
        saved = self._save(epoch, steps, None, time.perf_counter() - started_s)
        raise InterruptedResumableError(
            f"interrupted after step {len(self.result.steps)}; a checked checkpoint is left",
            where=str(saved.path),
            remedy=f"apr pretrain --init {shell_word(saved.path)} ...",
            facts={"checkpoint": str(saved.path), "step": len(self.result.steps)},
        )

    def _save(self, epoch: int, steps: range, validation_loss: float | None, wall_s: float) -> SavedCheckpoint:
        prepared = self.prepared
        own = self.result.steps[steps.start - 1 :]
        record = training_record(prepared, own, epoch=epoch, validation_loss=validation_loss, versions=self.versions)
        contents = CheckpointContents(
            model=prepared.model,
            architecture=prepared.architecture,
            config=prepared.config,
            generation_config=prepared.generation_config,
            tokenizer_files=prepared.tokenizer.files,
            training=record,
        )
        was_training = prepared.model.training
        saved = save_checkpoint(self.directory.checkpoint_path(epoch), contents)
        prepared.model.train(was_training)
        metadata = checkpoint_metadata(prepared, record, saved, own, self.optimizer.state_digest(), wall_s)
        self.directory.write_metadata(epoch, metadata)
        self.result.checkpoints.append(saved.path)
        return saved

    def _evaluate(self, step: int, epoch: int | None) -> EvaluationMetrics:
        return evaluate(
            self.prepared.model,
            self.loss,
            self.prepared.data.validation,
            step=step,
            epoch=epoch,
            should_stop=self.should_stop,
        )

    def _last_step(self) -> int:
        """The step budget, cut to one pass over the data when it may not start over."""
        settings, data = self.prepared.settings, self.prepared.data.training
        if self.prepared.options.may_cycle:
            return settings.steps
        return min(settings.steps, data.steps_in_one_pass(settings.batch_size))

    def _notice_new_pass(self, step: int) -> None:
        """INV-TRAIN-EXHAUST: starting over is announced once and counted every time."""
        settings, data = self.prepared.settings, self.prepared.data.training
        self.result.passes = -(-step * settings.batch_size // len(data))
        if self.result.passes == 2 and not self.result.notes:
            note = (
                f"the data starts over at step {step}: {len(data)} windows were all seen once, and come up again "
                "in another order"
            )
            self.result.notes.append(note)
            self.directory.log({"kind": "notice", "step": step, "id": "INV-TRAIN-EXHAUST", "text": note})
            self.observer.note(note)

    def _detail(self, status: RunStatus, last_step: int) -> str:
        settings, final = self.prepared.settings, self.result.final_validation_loss
        target = settings.target_validation_loss
        if final is None:
            return "no step was asked for; the model was loaded and measured at step 0"
        if status is RunStatus.TARGET_MET:
            return f"validation loss {final:.4f} is at or below the target {target:.4f}"
        missed = f"validation loss {final:.4f} is above the target {target:.4f}"
        if status is RunStatus.EARLY_STOP:
            return f"no better epoch for longer than the patience; {missed}"
        if last_step < settings.steps:
            count = len(self.prepared.data.training)
            return f"StreamExhausted: one pass over {count} windows ended at step {last_step}; {missed}"
        return f"all {last_step} steps are done; {missed}"

    def _end(self, status: RunStatus, detail: str) -> None:
        self.result.status, self.result.detail = status, detail
        self.directory.write_status({"schema": "apr.pretrain/1", **self.result.to_json()})

    def _end_if_possible(self, status: RunStatus, error: AprError) -> None:
        """Say how it ended even when the disk that stopped the run may refuse this file too."""
        try:
            self._end(status, error.what)
        except AprError as second:
            if second.exit_code is not ExitCode.INPUT_OUTPUT:
                raise
