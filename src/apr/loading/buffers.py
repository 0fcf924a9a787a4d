"""Non-persistent buffers (rotary tables, masks): no file holds them, so they are recomputed and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    the model's own while it is built, and float32 while the zoo's loader builds it: either is right. resident: its
    buffers by the names of a fresh model's, None for those it has; adapters rename them, and add their own.
    """
    import torch

    resident = non_persistent_buffers(model) if resident is None else resident
    if not resident:
        return BufferReport((), ())
    own = model.dtype if model.dtype.is_floating_point else torch.get_default_dtype()
    report = compare_buffers(resident, non_persistent_buffers(_reference_model(model, own)))
    if not report.problems or own is torch.float32:
        return report
    wide = compare_buffers(resident, non_persistent_buffers(_reference_model(model, torch.float32)))
    differing = {problem.name for problem in wide.problems}
    return BufferReport(report.compared, tuple(each for each in report.problems if each.name in differing))


def compare_buffers(resident: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> BufferReport:
    """Every derived buffer of either side held against its counterpart; `reference` lies on the CPU."""
    import torch

    problems = []
    for name in sorted(resident.keys() | reference.keys()):
        own, fresh = resident.get(name), reference.get(name)
        if own is None or fresh is None or own.shape != fresh.shape or own.dtype != fresh.dtype:
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
    from transformers.initialization import no_init_weights

    from apr.loading.quiet import quiet_zoo

    config = copy.deepcopy(model.config)
    former = torch.get_default_dtype()
    torch.set_default_dtype(default_dtype)
    try:
        with quiet_zoo(), no_init_weights(), parameters_without_memory(), torch.device("cpu"):
            return type(model)(config)
    finally:
        torch.set_default_dtype(former)


@contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Within the block every parameter moves to the meta device as it is registered; buffers stay real."""
    import torch

    original = torch.nn.Module.register_parameter

    def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        original(module, name, parameter)
        if parameter is not None:
            kept = torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = kept

    torch.nn.Module.register_parameter = register
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original


def _describe(buffer: torch.Tensor | None) -> str:
    if buffer is None:
        return "absent"
    values = buffer.detach().flatten()[:3].tolist()
    return f"{buffer.dtype} {tuple(buffer.shape)} starting {values}"
