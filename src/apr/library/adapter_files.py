"""A directory with a PEFT adapter, read from its files alone: does it hold what its config promises, and for whom?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apr.errors import AprError, DamagedFileError, RefusedError
from apr.formats.base import Checkpoint
from apr.formats.hf.weights import INDEX_FILE_NAME, SINGLE_FILE_NAME
from apr.formats.json_text import read_object
from apr.formats.safetensors.read import read_safetensors
from apr.gates.facts import InitFacts
from apr.library.source import resolve_source

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before every name when it saves an adapter (`PeftModel.save_pretrained`)."""

_LONGEST_CONFIG_BYTES = 16 << 20
_LORA_TENSOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?")
_PARTNERS = {
    "lora_A": "lora_B",
    "lora_B": "lora_A",
    "lora_embedding_A": "lora_embedding_B",
    "lora_embedding_B": "lora_embedding_A",
}


@dataclass(frozen=True)
class Adapter:
    """An open adapter. config: `adapter_config.json`. base: local path of the model it was trained on, None when that
    is not here; base_note says why."""

    path: Path
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    base: Path | None
    base_note: str

    @property
    def is_lora(self) -> bool:
        return str(self.config.get("peft_type")).upper() == "LORA"


@dataclass(frozen=True, slots=True)
class LoraTensor:
    """A LoRA tensor by what it adapts. module: the base module's name; part: `lora_A`, `lora_B`, ..."""

    name: str
    module: str
    part: str

    @property
    def is_output(self) -> bool:
        """Whether the adapter is an identity as long as this tensor is zero."""
        return self.part in {"lora_B", "lora_embedding_B"}


def is_adapter_directory(path: Path) -> bool:
    """Whether `path` holds a PEFT adapter and no model of its own."""
    if not (path / ADAPTER_CONFIG_NAME).is_file():
        return False
    return not any(os.path.lexists(path / name) for name in (SINGLE_FILE_NAME, INDEX_FILE_NAME))


def open_adapter(path: Path) -> Adapter:
    """The adapter in `path`; the caller closes its checkpoint.

    Raises NotFoundError or DamagedFileError when config or weights are missing or contradict themselves.
    """
    config = read_object(path / ADAPTER_CONFIG_NAME, _LONGEST_CONFIG_BYTES)
    if not os.path.lexists(path / ADAPTER_WEIGHTS_NAME):
        raise DamagedFileError(
            "the adapter directory holds no weights that can be read",
            where=str(path),
            expected=ADAPTER_WEIGHTS_NAME,
            found=", ".join(sorted(os.listdir(path)))[:200],
            remedy="save the adapter again: model.save_pretrained(directory) writes safetensors",
            invariant="FALSIFY-APR-PRETRAIN-INIT-004",
        )
    checkpoint = replace(read_safetensors(path / ADAPTER_WEIGHTS_NAME), config=config, config_place=ADAPTER_CONFIG_NAME)
    base, note = _base_of(config, path)
    return Adapter(path, config, checkpoint, base, note)


def _base_of(config: Mapping[str, Any], path: Path) -> tuple[Path | None, str]:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None, f"{ADAPTER_CONFIG_NAME} names no base model"
    for candidate in (Path(name), path / name):
        if candidate.exists():
            return candidate, f"the base model is {candidate}"
    try:
        found = resolve_source(name)
    except RefusedError:
        return None, f"the base model {name} is not on this machine"
    return (found, f"the base model is {found}") if found.exists() else (None, f"the base model {name} does not exist")


def adapter_facts(path: Path, adapter: Adapter | None, error: AprError | None) -> InitFacts:
    """The facts of an adapter for gates that look at one file: presence and integrity."""
    checkpoint = None if adapter is None else adapter.checkpoint
    note = "an adapter is planned against the model it lies over"
    return InitFacts(path=path, checkpoint=checkpoint, opening_error=error, plan_note=note)


def lora_tensors(names: Iterable[str]) -> list[LoraTensor]:
    """Those of `names` that are LoRA tensors, the prefix of PEFT taken off their modules."""
    found = []
    for name in names:
        match = _LORA_TENSOR.fullmatch(name)
        if match is not None:
            found.append(LoraTensor(name, match["module"].removeprefix(PREFIX), match["part"]))
    return found


def without_partner(tensors: Iterable[LoraTensor]) -> list[LoraTensor]:
    """LoRA tensors whose other half is not there."""
    held = {(each.module, each.part) for each in tensors}
    return [each for each in tensors if (each.module, _PARTNERS[each.part]) not in held]


def targets(config: Mapping[str, Any], module: str) -> bool | None:
    """Whether the config says that base module `module` is adapted; None when it cannot be told from the config.

    PEFT's rule (`match_target_against_key`): a text is a regular expression over the whole name, a list holds names
    or their last parts.
    """
    wanted, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded or config.get("layers_to_transform") is not None or config.get("target_parameters"):
        return None
    if isinstance(wanted, list) and all(isinstance(each, str) for each in wanted):
        return any(module == each or module.endswith(f".{each}") for each in wanted)
    return None
