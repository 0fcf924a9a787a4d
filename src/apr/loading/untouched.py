"""Look at a model without leaving a trace: modes and random state come back as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Within the block `model` is in eval mode and may draw random numbers; afterwards every module of it is in the
    mode it was in, and the random state of the process is the former one."""
    modes = [(module, module.training) for module in model.modules()]
    with kept_random_state():
        model.eval()
        try:
            yield
        finally:
            # By the method first: a class may do more in it than set the flag.
            model.train(modes[0][1])
            for module, mode in modes:
                if module.training is not mode:
                    module.training = mode


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Within the block random numbers may be drawn; a run draws afterwards what it would have drawn without it."""
    import torch

    with ExitStack() as former:
        former.callback(random.setstate, random.getstate())
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            former.callback(numpy.random.set_state, numpy.random.get_state())
        former.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            former.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        if torch.backends.mps.is_available():
            former.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield
