"""The device of a run: asked for, never silently replaced, and what its driver says about its load."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from apr.errors import RefusedError, UsageError

DEVICE_GRAMMAR = re.compile(r"cpu|auto|cuda(:(?P<index>[0-9]|1[0-5]))?")


@dataclass(frozen=True, slots=True)
class Device:
    """A device a run may use. name: for torch (`cpu`, `cuda:0`). reason: why this one. hardware: as it names itself."""

    name: str
    reason: str
    hardware: str

    @property
    def is_cuda(self) -> bool:
        return self.name.startswith("cuda")


def check_device_grammar(asked: str) -> None:
    """Raise UsageError unless `asked` is cpu, auto, cuda or cuda:0 to cuda:15 (INV-GPUTRAIN-001)."""
    if DEVICE_GRAMMAR.fullmatch(asked) is None:
        raise UsageError(
            "the device is not one this program knows",
            expected="cpu, auto, cuda, or cuda:0 to cuda:15",
            found=repr(asked),
            remedy="--device cpu",
            invariant="INV-GPUTRAIN-001",
        )


def choose_device(asked: str) -> Device:
    """The device `asked` names. Raises UsageError for another grammar, RefusedError (INV-GPUTRAIN-002) with
    DEVICE_UNAVAILABLE for a CUDA device that is not there: a run never falls back to the CPU unasked."""
    import torch

    check_device_grammar(asked)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        if count:
            return Device("cuda:0", "auto: the first of the CUDA devices", torch.cuda.get_device_name(0))
        return Device("cpu", "auto: there is no CUDA device", cpu_name())
    if asked == "cpu":
        return Device("cpu", "asked for", cpu_name())
    index = int(asked.partition(":")[2] or 0)
    if index >= count:
        raise RefusedError(
            f"DEVICE_UNAVAILABLE: --device {asked} was asked for and is not there",
            expected=f"CUDA device {index}",
            found=f"{count} CUDA devices, torch {torch.__version__}",
            remedy="--device cpu, or install a torch build and driver for the GPU",
            invariant="INV-GPUTRAIN-002",
            facts={"code": "DEVICE_UNAVAILABLE"},
        )
    return Device(f"cuda:{index}", "asked for", torch.cuda.get_device_name(index))


def cpu_name() -> str:
    """The processor's name as the operating system gives it, else the machine type."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class UtilisationMeter:
    """Reads the device's load in percent; `read` gives None and `reason` says why where nobody measures it."""

    read: Callable[[], float | None]
    reason: str | None


def utilisation_meter(device: Device) -> UtilisationMeter:
    """The driver's own utilisation counter (NVML) for a CUDA device; never an estimate."""
    if not device.is_cuda:
        return UtilisationMeter(lambda: None, "the run uses no GPU")
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device.name).uuid}")
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    except ImportError:
        return UtilisationMeter(lambda: None, "nvidia-ml-py is not installed")
    except (pynvml.NVMLError, AttributeError) as error:
        return UtilisationMeter(lambda: None, f"NVML gave no counter: {error}")

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except pynvml.NVMLError:
            return None

    return UtilisationMeter(read, None)
