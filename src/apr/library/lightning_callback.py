"""The callback for Lightning, under either name of the package; neither is imported before the class is asked for."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from apr.errors import MissingExtraError, UsageError
from apr.gates.facts import Fresh
from apr.library.start_check import VerifiedStart, check_start, fresh_state

if TYPE_CHECKING:
    import torch


class VerifyCallbackMethods(VerifiedStart):
    """Stops `Trainer.fit()` before the first step unless a module holds the weights of a named source.

    source: the checkpoint the run starts from. module: attribute of the LightningModule whose weights are meant
    (`"model"`), or "" for the LightningModule itself, then mostly with a name_map. validation: the batches of the
    evaluation at step 0; None takes the trainer's validation dataloaders, where it has some. loss_of: (module, batch)
    to the mean loss; None calls the module with the batch and takes `.loss`, as transformers' models allow.
    expected_loss, tolerance, adapter, fresh_adapter, name_map, dtype, probe, allowed_tensors, allowed_gates: as for
    `apr.hf.VerifyCallback`.

    `start` holds receipt, loss and findings once training has begun. Raises RefusedError from `fit()`.
    """

    def __init__(self, source: str | os.PathLike[str], *, module: str = "model", **terms: Any) -> None:
        super().__init__(source, **terms)
        self.module = module

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = check_start(
            self.terms,
            self._named_module(pl_module),
            self.batches(_dataloaders(trainer)),
            fresh=_fresh(trainer) if trainer.global_step == 0 else None,
            step=trainer.global_step,
            precision=_precision(str(trainer.precision)),
        )

    def _named_module(self, pl_module: Any) -> torch.nn.Module:
        import torch

        found = getattr(pl_module, self.module, None) if self.module else pl_module
        if not isinstance(found, torch.nn.Module):
            raise UsageError(
                f"{type(pl_module).__name__} has no module {self.module!r}",
                expected=f"one of {', '.join(name for name, _ in pl_module.named_children()) or 'its attributes'}",
                found=type(found).__name__,
                remedy="name the attribute that holds the model: VerifyCallback(source, module=...)",
            )
        return found


def callback_class() -> type[VerifyCallbackMethods]:
    """The methods as a callback of the Lightning package that the program uses.

    The one that is imported already counts; else `lightning`, else `pytorch_lightning`. Raises MissingExtraError when
    neither is installed.
    """
    import importlib

    names = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return _callback_class_of(importlib.import_module(name).Callback)
        except ImportError:
            continue
    raise MissingExtraError("Lightning is not installed", remedy="pip install 'apr[lightning]'")


@cache
def _callback_class_of(base: Any) -> type[VerifyCallbackMethods]:
    return type("VerifyCallback", (VerifyCallbackMethods, base), {"__doc__": VerifyCallbackMethods.__doc__})


def _dataloaders(trainer: Any) -> Iterable[Any] | None:
    """The batches of all validation dataloaders, one after the other, as many of each as the trainer validates on
    (`limit_val_batches`, `fast_dev_run`); None when there are none."""
    loaders = trainer.val_dataloaders
    if loaders is None:
        return None
    loaders = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    counts = trainer.num_val_batches
    counts = counts if isinstance(counts, list | tuple) else [counts]
    counts = [*counts, *[math.inf] * (len(loaders) - len(counts))]
    if not loaders or not any(counts):
        return None
    return chain.from_iterable(
        islice(loader, None if math.isinf(count) else int(count))
        for loader, count in zip(loaders, counts, strict=False)
    )


def _fresh(trainer: Any) -> Fresh | None:
    if not trainer.optimizers:
        return None
    schedulers = [each.scheduler for each in trainer.lr_scheduler_configs]
    return fresh_state(trainer.optimizers[0], schedulers[0] if schedulers else None)


def _precision(precision: str) -> str | None:
    """The dtype Lightning computes in: `bf16-mixed` and `bf16-true` are bfloat16, `16-...` float16."""
    return "bfloat16" if precision.startswith("bf16") else "float16" if precision.startswith("16") else None
