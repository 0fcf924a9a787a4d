"""What an adapter directory says of the adapter in it: the part of `apr.inspect/1` that only adapters have."""

from __future__ import annotations

from collections import Counter
from typing import Any

from apr.formats.base import Checkpoint
from apr.gates.adapters.facts import lora_tensors


def describe_adapter(checkpoint: Checkpoint) -> dict[str, Any]:
    """Kind, base model and settings as `adapter_config.json` states them (null where it does not), and what the file
    holds: how many modules are adapted, counted by the last part of their names, and how many tensors are whole."""
    config = checkpoint.config or {}
    tensors = lora_tensors(checkpoint.tensors)
    modules = {each.module for each in tensors}
    return {
        "kind": config.get("peft_type"),
        "base_model": config.get("base_model_name_or_path") or None,
        "task": config.get("task_type"),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": config.get("target_modules"),
        "modules_to_save": config.get("modules_to_save"),
        "adapted_modules": dict(sorted(Counter(module.rpartition(".")[2] for module in modules).items())),
        "whole_tensors": len(checkpoint.tensors) - len(tensors),
    }
