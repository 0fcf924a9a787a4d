"""Tensors that a run has in another shape than the file, on purpose and by name: a new head, a grown vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from apr.formats.base import Checkpoint
from apr.identity.renaming import current_name
from apr.library.resident import ResidentModel, storage_of
from apr.loading.ledger import Assignment, LoadPlan, Rule, Ruling
from apr.loading.materialise import read_tensor
from apr.loading.receipt import ReceiptProblem
from apr.loading.torch_dtypes import from_torch_dtype

if TYPE_CHECKING:
    import torch


def without_allowed_shapes(plan: LoadPlan, allowed: Mapping[str, str]) -> tuple[LoadPlan, tuple[str, ...]]:
    """The plan with the shape conflicts of `allowed` tensors as rulings, and the names of those tensors."""
    conflicts = plan.ledger.shape_conflicts
    names = tuple(each.name for each in conflicts if each.name in allowed)
    rulings = tuple(Ruling(name, Rule.ALLOWED_BY_USER, reason=allowed[name]) for name in names)
    ledger = plan.ledger._replace(
        shape_conflicts=tuple(each for each in conflicts if each.name not in allowed),
        ruled=(*plan.ledger.ruled, *rulings),
    )
    return plan._replace(ledger=ledger), names


def resized_tables(
    resident: ResidentModel, tensors: Mapping[str, torch.Tensor], reshaped: tuple[str, ...]
) -> tuple[str, ...]:
    """Those of the `reshaped` tensors that hold a row for each token: the input embedding and the head's."""
    if not reshaped or not resident.is_zoo_model:
        return ()
    places = set()
    for name in ("get_input_embeddings", "get_output_embeddings"):
        with suppress(NotImplementedError):
            weight = getattr(getattr(resident.module, name)(), "weight", None)
            places |= set() if weight is None else {storage_of(weight)}
    return tuple(name for name in reshaped if storage_of(tensors[name]) in places)


def changed_rows(
    checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], tables: tuple[str, ...]
) -> list[ReceiptProblem]:
    """Resized tables whose rows, of the tokens that file and model have in common, are not the file's."""
    import torch

    entries = {current_name(name, checkpoint.tensors): entry for name, entry in checkpoint.tensors.items()}
    problems = []
    for name in tables:
        resident, entry = tensors[name], entries[name]
        if resident.is_meta:
            continue  # Said of every tensor that has no memory.
        stored, _ = read_tensor(entry, Assignment(entry.name, name, entry.dtype, from_torch_dtype(resident.dtype)))
        count = min(len(stored), len(resident))
        common = resident[:count].detach().cpu()
        if common.shape != stored[:count].shape or not torch.equal(common, stored[:count]):
            what = f"is resized, and its first {count:,} rows are not the file's"
            problems.append(ReceiptProblem(name, what, "the rows that were trained, then new ones", "other values"))
    return problems
