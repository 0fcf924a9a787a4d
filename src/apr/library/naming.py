"""Which checkpoint name each resident tensor answers to: the same name, a declared map, or the zoo's base prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeAlias

from apr.errors import RefusedError, in_lines

if TYPE_CHECKING:
    import torch

NameMap: TypeAlias = Mapping[str, str] | Callable[[str], str]
"""Checkpoint name to module name. A mapping leaves names that it does not list as they are; a function gets each."""


def checkpoint_names(stored: Collection[str], resident: Collection[str], name_map: NameMap | None) -> dict[str, str]:
    """Module name to the checkpoint name that fills it, for every pair; names of either side may be left over.

    Raises RefusedError (INV-INIT-COVERAGE-001) when the map names a tensor that is on neither side, or sends two
    checkpoint names to one module name: only a bijection may rename.
    """
    if name_map is None:
        return {name: name for name in stored if name in resident}
    to_module = {name: name_map(name) if callable(name_map) else name_map.get(name, name) for name in stored}
    problems = []
    if not callable(name_map):
        problems += [f"{name} is not in the checkpoint" for name in sorted(set(name_map) - set(stored))]
        problems += [f"{name} is not in the module" for name in sorted(set(name_map.values()) - set(resident))]
    counts = Counter(name for name in to_module.values() if name in resident)
    problems += [
        f"{name} is the target of {', '.join(sorted(each for each in to_module if to_module[each] == name))}"
        for name, count in counts.items()
        if count > 1
    ]
    if problems:
        raise RefusedError(
            "the name map is no bijection between checkpoint and module",
            expected="checkpoint name -> module name, each side once",
            found=in_lines(*problems[:12]),
            remedy="correct name_map",
            invariant="INV-INIT-COVERAGE-001",
        )
    return {module_name: name for name, module_name in to_module.items() if module_name in resident}


def base_prefix_map(module: torch.nn.Module, stored: Collection[str], resident: Collection[str]) -> NameMap | None:
    """How the zoo's own loader names tensors across a base model and a model with a head, None where names agree.

    `Qwen2Model` has `layers.0...` where a checkpoint of `Qwen2ForCausalLM` has `model.layers.0...`, and the other way
    round; the prefix is the class's `base_model_prefix`, and it is put before or taken from every such name.
    """
    prefix = getattr(module, "base_model_prefix", "")
    if not isinstance(prefix, str) or not prefix:
        return None
    prefix += "."
    file_has_it = any(name.startswith(prefix) for name in stored)
    model_has_it = any(name.startswith(prefix) for name in resident)
    if file_has_it and not model_has_it:
        return lambda name: name.removeprefix(prefix)
    if model_has_it and not file_has_it:
        return lambda name: prefix + name if prefix + name in resident else name
    return None
