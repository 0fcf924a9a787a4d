"""Names that a training wrapper left in a checkpoint: named in the reasons, never repaired silently."""

from __future__ import annotations

from apr.identity.atlas import load_atlas
from apr.identity.candidates import CANONICAL, explaining_entries
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
    for change, renamed in _renamings(names):
        fitting = _fits(renamed)
        if fitting:
            found.append(f"{change} they are the tensors of {fitting}")
            break
    return found


def _renamings(names: FileNames) -> list[tuple[str, FileNames]]:
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
    return [
        (text, file_names({new: names.shapes[old] for old, new in renaming.items()}, names.placeholders))
        for text, renaming in renamings
        if len(set(renaming.values())) == len(renaming)
    ]


def _without(prefix: str, names: FileNames) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in names.shapes}


def _fits(names: FileNames) -> str | None:
    fitting, _ = explaining_entries(load_atlas(), names)
    types = sorted({account.entry.architecture.model_type for account in fitting})
    types.sort(key=lambda each: CANONICAL.index(each) if each in CANONICAL else len(CANONICAL))
    return types[0] if types else None
