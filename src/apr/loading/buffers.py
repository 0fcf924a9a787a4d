"""Non-persistent buffers (rotary tables, masks): no file holds them, so they are recomputed and compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr.loading.zoo_lock import ZOO_LOCK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class BufferProblem:
    """A derived buffer that differs from the reference. largest_difference is None when shapes or dtypes differ."""

    name: str
    expected: str
    found: str
    largest_difference: float | None


@dataclass(frozen=True, slots=True)
class BufferReport:
    """Which derived buffers were compared with a fresh CPU reference, and which differ."""

    compared: tuple[str, ...]
    problems: tuple[BufferProblem, ...]


def check_buffers(model: PreTrainedModel, resident: Mapping[str, torch.Tensor] | None = None) -> BufferReport:
    """Compare every non-persistent buffer of `model` with those of its class built afresh on the CPU.

    The reference holds real buffers and no parameter memory. Equality is exact: a buffer is computed once, on the
    CPU, from the config, and moved unchanged. A few classes compute tables in torch's default dtype (GPT-J), which is
    the model's own while it is built, and float32 while the zoo's loader builds it: either is right. A rotary table
    that its class makes anew for longer sequences may be the one for a length that was seen. resident: its buffers by
    the names of a fresh model's, None for those it has; adapters rename them, and add their own.
    """
    import torch

    from apr.loading.rotary import is_table_for_a_length

    resident = non_persistent_buffers(model) if resident is None else resident
    if not resident:
        return BufferReport((), ())
    own = model.dtype if model.dtype.is_floating_point else torch.get_default_dtype()
    # float32 first, as it is torch's default nearly always, and another one is set for the whole process.
    reference = non_persistent_buffers(_reference_model(model, torch.float32))
    report = compare_buffers(resident, reference, may_be_widened=own is torch.float64)
    if report.problems and own is not torch.float32:
        narrow = compare_buffers(resident, non_persistent_buffers(_reference_model(model, own)))
        differing = {problem.name for problem in report.problems}
        report = BufferReport(report.compared, tuple(each for each in narrow.problems if each.name in differing))
    problems = (each for each in report.problems if not is_table_for_a_length(model, each.name))
    return BufferReport(report.compared, tuple(problems))


def compare_buffers(
    resident: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor], *, may_be_widened: bool = False
) -> BufferReport:
    """Every derived buffer of either side held against its counterpart; `reference` lies on the CPU.

    may_be_widened: the model is a float64 one, and float32 tables went with it.
    """
    import torch

    problems = []
    for name in sorted(resident.keys() | reference.keys()):
        own, fresh = resident.get(name), reference.get(name)
        if may_be_widened and own is not None and own.dtype is torch.float64 and fresh is not None:
            fresh = fresh.double() if fresh.dtype is torch.float32 else fresh
        if own is not None and own.is_meta:
            problems.append(BufferProblem(name, _describe(fresh), "on the meta device", None))
        elif own is None or fresh is None or own.shape != fresh.shape or own.dtype != fresh.dtype:
            problems.append(BufferProblem(name, _describe(fresh), _describe(own), None))
        elif not torch.equal(own.detach().cpu(), fresh):
            difference = (own.detach().cpu().double() - fresh.double()).abs()
            largest = float(difference.max()) if bool(torch.isfinite(difference).all()) else float("inf")
            problems.append(BufferProblem(name, _describe(fresh), _describe(own), largest))
    return BufferReport(tuple(sorted(resident)), tuple(problems))


def non_persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that the state dict leaves out, by full name; those that PEFT put there are the adapter's."""
    found: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        if type(module).__module__ == "peft.tuners._buffer_dict":
            continue
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def _reference_model(model: PreTrainedModel, default_dtype: torch.dtype) -> PreTrainedModel:
    import copy

    import torch

    from apr.loading.quiet import quiet_zoo
    from apr.loading.untouched import kept_random_state

    config = copy.deepcopy(model.config)
    with kept_random_state(), quiet_zoo(), parameters_without_memory(), torch.device("cpu"):
        former = torch.get_default_dtype()
        if default_dtype is former:
            return type(model)(config)
        torch.set_default_dtype(default_dtype)
        try:
            return type(model)(config)
        finally:
            torch.set_default_dtype(former)


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Within the block every parameter that this thread registers moves to the meta device, and the zoo initialises
    nothing; buffers stay real. Modules that other threads build meanwhile are as ever."""
    import torch
    from transformers import PreTrainedModel

    is_open, owner = True, threading.get_ident()

    def is_ours() -> bool:
        return is_open and threading.get_ident() == owner

    with ZOO_LOCK:
        register_parameter, init_weights = torch.nn.Module.register_parameter, PreTrainedModel.init_weights

        def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
            register_parameter(module, name, parameter)
            if parameter is not None and is_ours():
                kept = torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = kept

        def initialise(model: PreTrainedModel) -> None:
            if not is_ours():
                init_weights(model)

        torch.nn.Module.register_parameter = register
        PreTrainedModel.init_weights = initialise
        try:
            yield
        finally:
            is_open = False
            torch.nn.Module.register_parameter = register_parameter
            PreTrainedModel.init_weights = init_weights


def _describe(buffer: torch.Tensor | None) -> str:
    if buffer is None:
        return "absent"
    values = buffer.detach().flatten()[:3].tolist()
    return f"{buffer.dtype} {tuple(buffer.shape)} starting {values}"
