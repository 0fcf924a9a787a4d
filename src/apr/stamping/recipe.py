"""The complete `apr stamp` command for a message: what the user asked for, with an identity that holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr.errors import shell_word
from apr.formats.json_text import with_tagged_floats
from apr.identity.types import Architecture, Naming
from apr.stamping.changes import OPTIONS, PROVENANCE_FIELDS, StampChanges
from apr.stamping.truth import Recipe


class Destination(NamedTuple):
    """Where a stamped checkpoint goes: a path of its own, or with `in_place` the (resolved) source itself.

    is_replaced: what stands at the path of its own gives way.
    """

    path: Path
    in_place: bool
    is_replaced: bool = False


def recipe_for(source: Path, destination: Destination, changes: StampChanges, reason: str | None = None) -> Recipe:
    """The maker of commands that stamp `source` as an architecture and keep everything else the user asked for."""

    def recipe(architecture: Architecture) -> str:
        identity = {"architecture": architecture.model_type}
        if architecture.naming is Naming.HUGGING_FACE:
            identity |= {"hf_architecture": architecture.class_name, "hf_model_type": architecture.model_type}
        import shlex

        words: list[object] = []
        for name, value in identity.items():
            words += [OPTIONS[name], value]
        for name in PROVENANCE_FIELDS:
            if getattr(changes, name) is not None:
                words += [OPTIONS[name], getattr(changes, name)]
        for key, setting in changes.settings.items():
            words += ["--set", f"{key}={setting_text(setting)}"]
        words += ["--reason", reason] if reason is not None else []
        paths = [] if changes.tokenizer is None else [OPTIONS["tokenizer"], shell_word(changes.tokenizer)]
        paths += ["--in-place"] if destination.in_place else ["-o", shell_word(destination.path)]
        paths += ["--force"] if destination.is_replaced else []
        return " ".join(["apr stamp", shell_word(source), shlex.join(map(str, words)), *paths])

    return recipe


def setting_text(value: Any) -> str:
    """The JSON that `--set` reads as `value`: a number beyond every float stands for infinity, which JSON lacks."""
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(key))}: {setting_text(item)}" for key, item in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(setting_text, value))}]"
    return json.dumps(with_tagged_floats(value))
