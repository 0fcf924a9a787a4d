"""The receipt: proof that the resident tensors equal the file's bytes, read back from the model itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apr.formats.base import Checkpoint
from apr.loading.casts import is_lossless
from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.ledger import LoadPlan, Rule
from apr.loading.materialise import LoadedTensor, read_tensor

if TYPE_CHECKING:
    import torch


GIVEN_LEAVE = frozenset({Rule.ALLOWED_BY_USER, Rule.OF_THE_ADAPTER})
"""Rules under which a resident tensor needs no counterpart in the file."""


@dataclass(frozen=True, slots=True)
class ReceiptProblem:
    """A resident tensor that is not what the file holds. expected, found: digests or words."""

    name: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which bytes of which source are in the model.

    weights_digest: of the source's assigned tensors, as stored. resident_digests: on-disk name to blake3 of the
    bytes read back from the model. problems: empty, or the load is refused.
    """

    source: str
    bytes_read: int
    tensors_written: int
    weights_digest: str
    resident_digests: Mapping[str, str]
    problems: tuple[ReceiptProblem, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "bytes_read": self.bytes_read,
            "tensors_written": self.tensors_written,
            "weights_digest": self.weights_digest,
            "tensor_digests": dict(self.resident_digests),
        }


def write_receipt(
    checkpoint: Checkpoint, plan: LoadPlan, loaded: Mapping[str, LoadedTensor], model: torch.nn.Module
) -> Receipt:
    """Read every resident tensor back and hold it against what was read from the file through the declared cast."""
    from apr.loading.on_disk import planned_state_dict

    resident = planned_state_dict(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # Two tensors that were handed apart and hold the same bytes may share them now; each is read back by its own name.
    resident |= {
        each.model_name: parameters[each.model_name]
        for each in plan.assignments
        if each.model_name not in resident and each.model_name in parameters
    }
    handed = _as_held(checkpoint, loaded, resident)
    return receipt_of(checkpoint, plan, handed, resident_digests(resident), _broken_ties(plan, model))


def _as_held(
    checkpoint: Checkpoint, loaded: Mapping[str, LoadedTensor], resident: Mapping[str, torch.Tensor]
) -> dict[str, LoadedTensor]:
    """`loaded`, with the digests of tensors that their class holds in a wider dtype than it was handed.

    Such a class keeps parts in float32 (transformers: `_keep_in_fp32_modules`); widening changes no value, so the
    file's bytes are read once more and widened likewise.
    """
    from blake3 import blake3

    from apr.loading.on_disk import tensor_bytes
    from apr.loading.torch_dtypes import from_torch_dtype

    held = dict(loaded)
    for name, each in loaded.items():
        assignment = each.assignment
        dtype = from_torch_dtype(resident[name].dtype) if name in resident else assignment.cast_to
        if dtype is assignment.cast_to or not is_lossless(assignment.cast_to, dtype):
            continue
        scale = None if assignment.scale_name is None else checkpoint.tensors[assignment.scale_name]
        tensor, _ = read_tensor(checkpoint.tensors[assignment.stored_name], assignment, scale)
        held[name] = replace(each, handed_blake3_hex=blake3(tensor_bytes(tensor.to(resident[name].dtype))).hexdigest())
    return held


def receipt_of(
    checkpoint: Checkpoint,
    plan: LoadPlan,
    loaded: Mapping[str, LoadedTensor],
    digests: Mapping[str, str],
    other_problems: Iterable[ReceiptProblem] = (),
) -> Receipt:
    """As `write_receipt`, of tensors read back already. digests: on-disk name to blake3 of the resident bytes."""
    problems = list(other_problems)
    for assignment in plan.assignments:
        name = assignment.model_name
        handed = loaded.get(name)
        if handed is None:
            problems.append(ReceiptProblem(name, "was never read from the file", "bytes read", "none"))
        elif name not in digests:
            problems.append(ReceiptProblem(name, "is not in the model after loading", "a resident tensor", "none"))
        elif digests[name] != handed.handed_blake3_hex:
            problems.append(
                ReceiptProblem(
                    name,
                    "differs from the file's bytes",
                    f"blake3 {handed.handed_blake3_hex}",
                    f"blake3 {digests[name]}",
                )
            )
    planned = {assignment.model_name for assignment in plan.assignments}
    allowed = {ruling.name for ruling in plan.ledger.ruled if ruling.rule in GIVEN_LEAVE}
    for name in digests.keys() - planned - allowed:
        problems.append(
            ReceiptProblem(name, "is in the model without a receipt", "a tensor of the plan", digests[name])
        )
    return Receipt(
        source=str(checkpoint.path),
        bytes_read=sum(each.bytes_read for each in loaded.values()),
        tensors_written=len(loaded),
        weights_digest=weights_digest(leaf for each in loaded.values() for leaf in _leaves(checkpoint, each)),
        resident_digests=dict(sorted(digests.items())),
        problems=tuple(sorted(problems, key=lambda problem: problem.name)),
    )


def _leaves(checkpoint: Checkpoint, loaded: LoadedTensor) -> Iterator[TensorDigest]:
    name = loaded.assignment.stored_name
    yield TensorDigest(name, loaded.assignment.cast_from, checkpoint.tensors[name].shape, loaded.stored_blake3_hex)
    if loaded.scale is not None:
        scale, digest = loaded.scale
        yield TensorDigest(scale.name, scale.dtype, scale.shape, digest)


def resident_digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """blake3 hex of each tensor's bytes in row-major order, computed on all cores."""
    from blake3 import blake3

    from apr.loading.on_disk import tensor_bytes

    def digest(item: tuple[str, torch.Tensor]) -> tuple[str, str]:
        name, tensor = item
        return name, blake3(tensor_bytes(tensor)).hexdigest()

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return dict(pool.map(digest, state.items()))


def _broken_ties(plan: LoadPlan, model: torch.nn.Module) -> list[ReceiptProblem]:
    """Tied names whose tensor in the model is another one than their partner's."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    broken = []
    for ruling in plan.ledger.tied:
        own, partner = parameters.get(ruling.name), parameters.get(ruling.partner or "")
        if own is not None and partner is not None and own.data_ptr() != partner.data_ptr():
            broken.append(
                ReceiptProblem(ruling.name, "is not tied in the model", f"the bytes of {ruling.partner}", "its own")
            )
    return broken
