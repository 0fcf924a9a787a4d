"""The complete `apr stamp` command for a message: what the user asked for, with an identity that holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from apr.identity.types import Architecture, Naming
from apr.stamping.changes import OPTIONS, PROVENANCE_FIELDS, StampChanges
from apr.stamping.truth import Recipe


class Destination(NamedTuple):
    """Where a stamped checkpoint goes: a path of its own, or with `in_place` the (resolved) source itself."""

    path: Path
    in_place: bool


def recipe_for(source: Path, destination: Destination, changes: StampChanges) -> Recipe:
    """The maker of commands that stamp `source` as an architecture and keep everything else the user asked for."""

    def recipe(architecture: Architecture) -> str:
        identity = {"architecture": architecture.model_type}
        if architecture.naming is Naming.HUGGING_FACE:
            identity |= {"hf_architecture": architecture.class_name, "hf_model_type": architecture.model_type}
        words = ["apr", "stamp", str(source)]
        for name, value in identity.items():
            words += [OPTIONS[name], value]
        for name in (*PROVENANCE_FIELDS, "tokenizer"):
            if getattr(changes, name) is not None:
                words += [OPTIONS[name], str(getattr(changes, name))]
        for key, setting in changes.settings.items():
            words += ["--set", f"{key}={json.dumps(setting)}"]
        words += ["--in-place"] if destination.in_place else ["-o", str(destination.path)]
        import shlex

        return shlex.join(words)

    return recipe
