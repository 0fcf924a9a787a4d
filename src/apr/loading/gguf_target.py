"""The tensors a GGUF file of an architecture has to hold, for its two-way ledger; nothing is loaded by it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from apr.errors import AprError
from apr.formats.base import Checkpoint
from apr.identity.entries import ANY_SIZE, Entry, Template
from apr.identity.gguf_atlas import load_gguf_atlas
from apr.identity.gguf_config import known_dimensions
from apr.identity.gguf_matching import gguf_names, is_scale, match_gguf, settled_entry
from apr.identity.names import FileNames, find_group
from apr.identity.shapes import UnevaluableError, evaluate
from apr.identity.types import Architecture, ExpectedTensor, ResolvedConfig
from apr.loading.ledger import Target

MOST_LAYERS_LACKING = 1024
"""A real mistake counts a few layers too many; a hostile count is refused before names are made for it."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def make_gguf_target(checkpoint: Checkpoint, architecture: Architecture, config: ResolvedConfig) -> Target:
    """Every tensor that `architecture` wants under its names in `checkpoint`, with the shape the keys give it.

    Which optional tensors and which kinds of layers there are shows in the file itself, as llama.cpp reads it; a size
    that no key gives is the file's own. A head that is absent is tied to the embedding.
    """
    entry, names = load_gguf_atlas().entry(architecture), gguf_names(checkpoint)
    account = match_gguf(entry, names)
    known = known_dimensions({**account.dimensions, **config.values})
    _refuse_absurd_layers(checkpoint, known)
    account = match_gguf(entry, names, known=known)
    expected: dict[str, ExpectedTensor] = {}
    for template in settled_entry(entry, names).templates:
        group = find_group(template.pattern, names)
        for name in [] if group is None else group.rows.values():
            if name not in account.unused:
                shape = _shape(template, names, name, known)
                expected.setdefault(name, ExpectedTensor(name, shape, is_optional=template.is_optional))
    for name in account.unfilled:
        expected.setdefault(name, ExpectedTensor(name, _shape_of(entry, name, known)))
    if HEAD not in expected and EMBEDDING in names.shapes and _has(entry, HEAD):
        expected[HEAD] = ExpectedTensor(HEAD, names.shapes[EMBEDDING], tied_to=EMBEDDING)
    for name, tensor in checkpoint.tensors.items():
        if is_scale(name, checkpoint.tensors):
            expected.setdefault(name, ExpectedTensor(name, tensor.shape))
    return Target(architecture, config, MappingProxyType(expected), origin="gguf atlas")


def _refuse_absurd_layers(checkpoint: Checkpoint, known: Mapping[str, int]) -> None:
    """Raise UnevaluableError for more layers than the file has tensors, before a name is made for each."""
    for field in ("num_hidden_layers", "num_decoder_layers"):
        most = len(checkpoint.tensors) + MOST_LAYERS_LACKING
        if known.get(field, 0) > most:
            raise UnevaluableError(
                "the keys ask for more layers than the file can explain",
                where=f"{checkpoint.path}: {field}",
                expected=f"at most {most}: the file holds {len(checkpoint.tensors)} tensors",
                found=str(known[field]),
                invariant="FALSIFY-APR-PRETRAIN-INIT-005",
                remedy="correct the key, or fetch an intact copy of the checkpoint",
            )


def _has(entry: Entry, name: str) -> bool:
    return any(template.pattern == name for template in entry.templates)


def _shape(template: Template, names: FileNames, name: str, known: Mapping[str, int]) -> tuple[int, ...]:
    """The shape the template gives under `known`, in the rank of the file; its own where a size is not known."""
    stored = names.shapes[name]
    if template.is_loose or template.is_optional or len(stored) != len(template.dims):
        return stored
    return tuple(_size(dim, known, size) for dim, size in zip(template.dims, stored, strict=True))


def _size(dim: str, known: Mapping[str, int], stored: int) -> int:
    if dim == ANY_SIZE:
        return stored
    try:
        return evaluate(dim, known)
    except AprError:
        return stored


def _shape_of(entry: Entry, name: str, known: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor the file lacks, as far as it is known; unknown sizes are 0."""
    for template in entry.templates:
        if _names_alike(template.pattern, name) and not template.is_loose:
            return tuple(_size(dim, known, 0) for dim in template.dims)
    return ()


def _names_alike(pattern: str, name: str) -> bool:
    parts, others = pattern.split("."), name.split(".")
    return len(parts) == len(others) and all(
        part == other or (part.startswith("{") and other.isdigit()) for part, other in zip(parts, others, strict=True)
    )
