"""Execute a load plan: build the class without memory, let the zoo's own loader place what the plan hands it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apr.errors import DamagedFileError, RefusedError, UsageError, in_lines
from apr.formats.base import Checkpoint, TensorEntry
from apr.formats.dtypes import ENCODINGS, DType
from apr.loading.ledger import Assignment, LoadPlan
from apr.loading.scales import apply_scale
from apr.loading.zoo_lock import ZOO_LOCK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

READ_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class LoadedTensor:
    """What was handed to the loader for one tensor: bytes read, their digest, and the digest after the cast.

    scale: the entry of the scale it was multiplied with and the digest of that one's stored bytes.
    """

    assignment: Assignment
    bytes_read: int
    stored_blake3_hex: str
    handed_blake3_hex: str
    scale: tuple[TensorEntry, str] | None = None


@dataclass(frozen=True)
class Materialised:
    """A model that holds what the plan assigned. `loaded` by on-disk name; `report` is the loader's own account."""

    model: PreTrainedModel
    plan: LoadPlan
    loaded: Mapping[str, LoadedTensor] = field(default_factory=dict)


class PlannedTensor:
    """Stands for one tensor in the state dict; `[...]` reads it once, into memory of its own.

    Own memory, not a mapping of the file: a file that is replaced or stamped during a month of training must not
    change the model.
    """

    def __init__(
        self,
        entry: TensorEntry,
        assignment: Assignment,
        loaded: dict[str, LoadedTensor],
        lock: threading.Lock,
        scale: TensorEntry | None = None,
    ) -> None:
        self._entry = entry
        self._scale = scale
        self._assignment = assignment
        self._loaded = loaded
        self._lock = lock

    def __getitem__(self, index: object) -> torch.Tensor:
        tensor, loaded = read_tensor(self._entry, self._assignment, self._scale)
        with self._lock:
            self._loaded[self._assignment.model_name] = loaded
        return tensor[index]

    def get_shape(self) -> list[int]:
        return list(self._entry.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._entry.shape


def read_tensor(
    entry: TensorEntry, assignment: Assignment, scale: TensorEntry | None = None
) -> tuple[torch.Tensor, LoadedTensor]:
    """One stored tensor in memory of its own, cast as the assignment declares, with the digests of both forms.

    scale: the stored scale that the assignment names; UsageError when it names one and none is handed over.
    """
    import torch
    from blake3 import blake3

    from apr.loading.on_disk import tensor_bytes
    from apr.loading.torch_dtypes import to_torch_dtype

    hasher = blake3()
    if ENCODINGS[entry.dtype].is_quantized:
        from apr.formats.apr2.dequantize import dequantize

        raw = entry.read_bytes()
        hasher.update(raw)
        tensor = torch.from_numpy(dequantize(raw, entry.dtype, entry.shape))
    else:
        tensor = torch.empty(entry.shape, dtype=to_torch_dtype(entry.dtype))
        target = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
        for start in range(0, entry.size_bytes, READ_CHUNK_BYTES):
            part = target[start : start + READ_CHUNK_BYTES]
            entry.file.read_into(entry.offset_bytes + start, part, entry.name)
            hasher.update(part)
    stored_hex = hasher.hexdigest()
    bytes_read, scale_read = entry.size_bytes, None
    if assignment.scale_name is not None:
        if scale is None:
            raise UsageError(f"{entry.name} cannot be read without its scale", expected=assignment.scale_name)
        factors, read = read_tensor(scale, Assignment(scale.name, scale.name, scale.dtype, scale.dtype))
        tensor = apply_scale(tensor, factors, entry.name)
        bytes_read, scale_read = bytes_read + read.bytes_read, (scale, read.stored_blake3_hex)
    handed_hex = stored_hex
    if not assignment.is_bit_exact:
        tensor = tensor.to(to_torch_dtype(assignment.cast_to))
        handed_hex = blake3(tensor_bytes(tensor)).hexdigest()
    return tensor, LoadedTensor(assignment, bytes_read, stored_hex, handed_hex, scale_read)


def materialise(checkpoint: Checkpoint, plan: LoadPlan, *, attention: str | None = None) -> Materialised:
    """The plan's model on the CPU, in eval mode, every parameter filled from `checkpoint`.

    attention: the zoo's attention implementation, None for its own choice. Raises RefusedError when the ledger does
    not balance, or when the loader left anything unfilled, unused or mis-shaped after all: nothing is ever
    initialised here.
    """
    import torch

    from apr.loading.quiet import quiet_zoo
    from apr.loading.torch_dtypes import to_torch_dtype
    from apr.loading.zoo import build_config, model_class

    if not plan.ledger.balances:
        raise RefusedError("the load plan leaves tensors unfilled or unused", invariant="INV-INIT-COVERAGE-001")
    config = build_config(plan.target.config)
    loaded: dict[str, LoadedTensor] = {}
    lock = threading.Lock()
    state = {
        each.model_name: PlannedTensor(
            checkpoint.tensors[each.stored_name],
            each,
            loaded,
            lock,
            None if each.scale_name is None else checkpoint.tensors[each.scale_name],
        )
        for each in plan.assignments
    }
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        with quiet_zoo(), ZOO_LOCK:
            model, report = model_class(plan.target.architecture).from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=to_torch_dtype(plan.dtype),
                output_loading_info=True,
                **options,
            )
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RefusedError(
            f"{plan.target.architecture} cannot be loaded as planned: its class fails",
            where=str(checkpoint.path),
            expected="a model filled as the plan says",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            invariant="INV-INIT-COVERAGE-001",
        ) from error
    _refuse_incomplete(report, plan, checkpoint)
    return Materialised(model=model, plan=plan, loaded=loaded)


def _refuse_incomplete(report: Mapping[str, object], plan: LoadPlan, checkpoint: Checkpoint) -> None:
    leftovers = {
        key: sorted(map(str, value)) for key, value in report.items() if isinstance(value, (set, list, dict)) and value
    }
    allowed = {ruling.name for ruling in plan.ledger.ruled}
    missing = [name for name in leftovers.get("missing_keys", []) if name not in allowed]
    problems = {key: value for key, value in leftovers.items() if key != "missing_keys"}
    if missing:
        problems["missing_keys"] = missing
    if problems:
        raise RefusedError(
            "the model zoo's loader disagrees with the load plan",
            where=str(checkpoint.path),
            expected="nothing missing, unexpected, mismatched or in error",
            found=in_lines(*(f"{key}: {', '.join(value[:5])}" for key, value in sorted(problems.items()))),
            invariant="INV-INIT-COVERAGE-001",
        )


def check_unchanged_since(loaded: Mapping[str, LoadedTensor], digests: Mapping[str, str], path: object) -> None:
    """Raise DamagedFileError when bytes read for loading differ from those the deep pass had judged."""
    for name, tensor in loaded.items():
        judged = digests.get(tensor.assignment.stored_name)
        if judged is not None and judged != tensor.stored_blake3_hex:
            raise DamagedFileError(
                f"tensor {name} changed between the check and the load",
                where=str(path),
                expected=f"blake3 {judged}",
                found=f"blake3 {tensor.stored_blake3_hex}",
                invariant="INV-INIT-RECEIPT-001",
                remedy="make sure nothing writes to the checkpoint while it is loaded",
            )


def stored_dtype_of(model: torch.nn.Module) -> DType:
    """The dtype most of the model's floating-point parameters are held in."""
    from apr.loading.torch_dtypes import from_torch_dtype

    counts: dict[DType, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            dtype = from_torch_dtype(parameter.dtype)
            counts[dtype] = counts.get(dtype, 0) + parameter.numel()
    return max(counts, key=lambda dtype: counts[dtype]) if counts else DType.F32
