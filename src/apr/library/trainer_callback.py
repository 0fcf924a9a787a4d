"""The callback for transformers' `Trainer`. This module is imported by `apr.hf` when its class is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from apr.library.start_check import VerifiedStart, check_start, fresh_state

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class VerifyCallback(VerifiedStart, TrainerCallback):  # type: ignore[misc]  # transformers is not typed for strict checking
    """Stops `Trainer.train()` before the first step unless the model holds the weights of a named source.

    source: the checkpoint the run starts from; for `train(resume_from_checkpoint=DIR)` that directory. validation: the
    batches of the evaluation at step 0 (an iterable of mappings with `labels`, or a function that gives one); None
    takes the Trainer's own when `attach` knows it, and otherwise there is no evaluation. expected_loss: what that set
    gave before, as `eval_loss` reports it; without it the loss has to beat ln(vocabulary). tolerance: relative, None
    for the measured one of the dtype. loss_of: (model, batch) to loss, for models that return none. adapter,
    fresh_adapter, name_map, dtype, probe, allowed_tensors, allowed_gates: as for `apr.verify_loaded`.

    `start` holds receipt, loss and findings once training has begun. Raises RefusedError from `train()`.
    """

    def attach(self, trainer: Trainer) -> VerifyCallback:
        """Add this callback to `trainer`, and evaluate at step 0 as it does: on its evaluation set if it has one, with
        its own loss."""
        if self.validation is None and trainer.eval_dataset is not None:
            self.validation = partial(_evaluation_batches, trainer)
        if self.terms.loss_of is None:
            self.terms = replace(self.terms, loss_of=partial(_evaluation_loss, trainer))
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_new = state.global_step == 0
        self.start = check_start(
            self.terms,
            kwargs["model"],
            self.batches(kwargs.get("eval_dataloader")),
            fresh=fresh_state(kwargs.get("optimizer"), kwargs.get("lr_scheduler")) if is_new else None,
            step=state.global_step,
            precision="bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        )


def _evaluation_loss(trainer: Trainer, model: torch.nn.Module, batch: Any) -> Any:
    return trainer.prediction_step(model, batch, prediction_loss_only=True)[0]


def _evaluation_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of the Trainer's evaluation set, or of each of its sets in turn."""
    datasets = trainer.eval_dataset
    for dataset in datasets.values() if isinstance(datasets, dict) else [datasets]:
        yield from trainer.get_eval_dataloader(dataset)
