"""Adapters that PEFT injected into a model: which of its tensors are the base model's, and which the adapter's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apr.library.wrappers import is_instance
from apr.loading.buffers import non_persistent_buffers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Split:
    """base: name in memory to the name it has without PEFT. adapter: names that only PEFT put there."""

    base: dict[str, str]
    adapter: tuple[str, ...]


def split_adapters(module: torch.nn.Module, names: Iterable[str]) -> Split:
    """The tensor names of `module` parted by the PEFT layers among its modules; all base where there are none."""
    names = list(names)
    wrapped: dict[str, str] = {}
    for prefix, inner in module.named_modules():
        if is_instance(inner, "peft.tuners.tuners_utils", "BaseTunerLayer"):
            wrapped[f"{prefix}."] = "base_layer."
        elif is_instance(inner, "peft.utils.other", "TrainableTokensWrapper"):
            wrapped[f"{prefix}."] = "token_adapter."
        elif is_instance(inner, "peft.utils.other", "AuxiliaryTrainingWrapper"):
            wrapped[f"{prefix}."] = "original_module."
    if not wrapped:
        return Split({name: name for name in names}, ())
    base: dict[str, str] = {}
    adapter: list[str] = []
    for name in names:
        plain = _without_peft(name, wrapped)
        if plain is None:
            adapter.append(name)
        else:
            base[name] = plain
    return Split(base, tuple(adapter))


def base_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The derived buffers of the base model under the names they have without PEFT; not those of its adapters."""
    found = non_persistent_buffers(module)
    return {plain: found[name] for name, plain in split_adapters(module, found).base.items()}


def _without_peft(name: str, wrapped: dict[str, str]) -> str | None:
    """The base model's name of a tensor, None for a tensor that only PEFT knows.

    A wrapper may hold another one (a tied head whose embedding is adapted), so prefixes are tried from the inside.
    """
    for prefix in sorted((each for each in wrapped if name.startswith(each)), key=len, reverse=True):
        rest = name.removeprefix(prefix)
        if not rest.startswith(wrapped[prefix]):
            return None
        name = prefix + rest.removeprefix(wrapped[prefix])
    return name
