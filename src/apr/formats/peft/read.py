"""Open a PEFT adapter directory: its config and its one weights file, as `PeftModel.save_pretrained` writes them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from apr.errors import DamagedFileError, shell_word
from apr.formats.base import Checkpoint, Format
from apr.formats.damage import MAGIC_VALID, damaged
from apr.formats.hf.weights import INDEX_FILE_NAME, SINGLE_FILE_NAME
from apr.formats.json_text import read_object, without_tagged_floats
from apr.formats.safetensors.read import read_safetensors
from apr.storage.reading import HeldDirectory

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_WEIGHTS_NAMES = (ADAPTER_WEIGHTS_NAME, "adapter_model.bin")
"""Those that PEFT looks for; only the first is read here."""

_LONGEST_CONFIG_BYTES = 4 << 20
"""The longest are those that list each expert of a large model by its whole name, 2 MB."""


def is_adapter_directory(path: Path) -> bool:
    """Whether `path` holds a PEFT adapter and no model of its own."""
    if not os.path.isfile(path / ADAPTER_CONFIG_NAME):
        return False
    return not any(os.path.lexists(path / name) for name in (SINGLE_FILE_NAME, INDEX_FILE_NAME))


def read_adapter_directory(directory: Path) -> Checkpoint:
    """The adapter in `directory`; its `config` is `adapter_config.json`, and it has no stamps: it is no model.

    Only headers are read. Raises NotFoundError or DamagedFileError when config or weights are missing or contradict
    themselves.
    """
    directory = Path(directory)
    config = without_tagged_floats(read_object(directory / ADAPTER_CONFIG_NAME, _LONGEST_CONFIG_BYTES))
    if not os.path.lexists(directory / ADAPTER_WEIGHTS_NAME):
        raise damaged(
            "the adapter directory holds no weights that can be read",
            path=directory,
            expected=ADAPTER_WEIGHTS_NAME,
            found=", ".join(sorted(os.listdir(directory)))[:200],
            invariant=MAGIC_VALID,
            remedy="save the adapter again: model.save_pretrained(directory) writes safetensors",
        )
    held = HeldDirectory(directory)
    try:
        weights = read_safetensors(directory / ADAPTER_WEIGHTS_NAME)
    except BaseException:
        held.close()
        raise
    return replace(
        weights,
        path=directory,
        format=Format.PEFT_ADAPTER,
        stamps=(),
        config=MappingProxyType(config),
        config_place=ADAPTER_CONFIG_NAME,
        directory=held,
    )


def no_model_by_itself(directory: Path) -> DamagedFileError:
    """What a caller that wants a model is told of an adapter directory."""
    config = read_object(directory / ADAPTER_CONFIG_NAME, _LONGEST_CONFIG_BYTES)
    base = config.get("base_model_name_or_path")
    named = f"{base!r:.200}" if isinstance(base, str) and base else "a base model it does not name"
    return damaged(
        "the directory holds a PEFT adapter, which is no model by itself",
        path=directory,
        expected="a model: config.json and its weights",
        found=f"{ADAPTER_CONFIG_NAME}, for {named}",
        invariant=MAGIC_VALID,
        remedy=f"name the base model, and lay the adapter over it with PEFT; "
        f"apr preflight {shell_word(directory)} checks both",
    )
