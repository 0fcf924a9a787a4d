"""Names that a training wrapper left in a checkpoint: named in the reasons, repaired only when that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from apr.errors import RefusedError, UsageError
from apr.formats.base import Checkpoint
from apr.identity.atlas import load_atlas
from apr.identity.candidates import CANONICAL, explaining_entries
from apr.identity.latest import Latest
from apr.identity.names import FileNames, file_names

WRAPPER_PARTS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_model": "PEFT",
}
"""Name components that only wrappers add, with the wrapper."""

PREFIXES = ("base_model.model.", "model.", "transformer.", "language_model.", "backbone.", "gpt_neox.")
"""Prefixes that a container or a base class puts before every name, or that its absence takes away."""


class Repair(NamedTuple):
    """A renaming of all tensors that makes them those of a known architecture. names: stored name to repaired one, a
    bijection. words: what it does, as `without these wrapper parts`. model_type: of the best known that then fits."""

    names: Mapping[str, str]
    words: str
    model_type: str


_repair: Latest[FileNames, Repair | None] = Latest()


def describe_wrapping(names: FileNames) -> list[str]:
    """Sentences naming the wrapper that explains why nothing fits, and what the tensors are without it."""
    found = []
    for part, wrapper in WRAPPER_PARTS.items():
        carriers = [name for name in names.shapes if part in name.split(".")]
        if carriers:
            share = "all" if len(carriers) == len(names.shapes) else f"{len(carriers)} of"
            found.append(f"{share} {len(names.shapes)} names carry `{part}.`, which {wrapper} puts there")
    flat = [name for name in names.shapes if name.rpartition(".")[2] in ("_flat_param", "flat_param")]
    if flat:
        found.append(f"{len(flat)} tensors are flattened FSDP parameters (`{flat[0]}`), not a gathered checkpoint")
    repair = repair_of(names)
    if repair is not None:
        found.append(f"{repair.words} they are the tensors of {repair.model_type}")
    return found


def repair_of(names: FileNames) -> Repair | None:
    """The first renaming of the kinds that wrappers and base classes make after which an architecture explains all."""
    # The reasons and the remedy of one refusal both ask.
    return _repair.get(names, lambda: _find_repair(names))


def _find_repair(names: FileNames) -> Repair | None:
    for words, renaming in _renamings(names):
        shapes = {new: names.shapes[old] for old, new in renaming.items()}
        fitting = _fits(file_names(shapes, names.placeholders))
        if fitting is not None:
            return Repair(renaming, words, fitting)
    return None


def with_repaired_names(checkpoint: Checkpoint, names: FileNames) -> tuple[Checkpoint, Repair]:
    """`checkpoint` with its model tensors (`names`) under the names they had before they were wrapped.

    Only by a bijection after which a known architecture explains all of them. Raises RefusedError when there is none,
    and UsageError for names that are those of an architecture already.
    """
    fitting = _fits(names)
    if fitting is not None:
        raise UsageError(
            "the tensors have the names of an architecture already, and no wrapper's",
            where=str(checkpoint.path),
            expected="names that a wrapper changed",
            found=f"the names of {fitting}",
            remedy="leave out --unwrap",
        )
    repair = repair_of(names)
    if repair is None:
        raise RefusedError(
            "no renaming that wrappers make turns these names into those of a known architecture",
            where=str(checkpoint.path),
            expected="names that carry one wrapper's parts or prefix, all of them",
            found="; ".join(describe_wrapping(names)) or f"{len(names.shapes)} names without any",
            remedy="save the model again without its wrapper (torch: model.module, model._orig_mod)",
            invariant="INV-INIT-COVERAGE-001",
        )
    renamed = {}
    for name, entry in checkpoint.tensors.items():
        repaired = repair.names.get(name, name)
        renamed[repaired] = entry._replace(name=repaired)
    return replace(checkpoint, tensors=MappingProxyType(renamed)), repair


def _renamings(names: FileNames) -> list[tuple[str, dict[str, str]]]:
    """Name spaces the file may have been shifted from; each a bijection of its names."""
    renamings: list[tuple[str, dict[str, str]]] = []
    parts = {name: [part for part in name.split(".") if part not in WRAPPER_PARTS] for name in names.shapes}
    unwrapped = {name: ".".join(kept) for name, kept in parts.items()}
    if any(name != other for name, other in unwrapped.items()):
        renamings.append(("without these wrapper parts", unwrapped))
        if "base_model.model." in next(iter(names.shapes), ""):
            renamings.append(("without `base_model.model.`", _without("base_model.model.", names)))
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in unwrapped.values()):
            inner = {name: other.removeprefix(prefix) for name, other in unwrapped.items()}
            renamings.append((f"without the prefix `{prefix}` on every name", inner))
        outer = {name: prefix + other for name, other in unwrapped.items()}
        renamings.append((f"with the prefix `{prefix}` that is absent from every name", outer))
    return [(text, renaming) for text, renaming in renamings if len(set(renaming.values())) == len(renaming)]


def _without(prefix: str, names: FileNames) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in names.shapes}


def _fits(names: FileNames) -> str | None:
    fitting, _ = explaining_entries(load_atlas(), names)
    types = sorted({account.entry.architecture.model_type for account in fitting})
    types.sort(key=lambda each: CANONICAL.index(each) if each in CANONICAL else len(CANONICAL))
    return types[0] if types else None
