"""One edit each: small functions that break a draft, for the table of faults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults.checkpoints import Draft

Edit = Callable[[Draft], None]


def relabel(model_type: str | None, class_name: str | None) -> Edit:
    """Let the config claim another model type, another class, or both."""

    def edit(draft: Draft) -> None:
        if model_type is not None:
            draft.config["model_type"] = model_type
        if class_name is not None:
            draft.config["architectures"] = [class_name]

    return edit


def rename(change: Callable[[str], str]) -> Edit:
    def edit(draft: Draft) -> None:
        draft.state = {change(name): tensor for name, tensor in draft.state.items()}

    return edit


def prefixed(prefix: str) -> Edit:
    return rename(lambda name: prefix + name)


def substituted(pattern: str, replacement: str) -> Edit:
    return rename(lambda name: re.sub(pattern, replacement, name))


def without(pattern: str) -> Edit:
    def edit(draft: Draft) -> None:
        kept = {name: tensor for name, tensor in draft.state.items() if not re.search(pattern, name)}
        assert len(kept) < len(draft.state), pattern
        draft.state = kept

    return edit


def tensors(pattern: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Edit:
    """Every tensor whose name matches; `change` gives another tensor, or edits in place and gives None."""

    def edit(draft: Draft) -> None:
        names = [name for name in draft.state if re.search(pattern, name)]
        assert names, pattern
        for name in names:
            changed = change(draft.state[name])
            draft.state[name] = draft.state[name] if changed is None else changed

    return edit


def swapped(pattern: str, one: str, other: str) -> Edit:
    """Exchange the tensors whose names differ in `one` and `other`."""

    def edit(draft: Draft) -> None:
        for name in [name for name in draft.state if re.search(pattern, name) and one in name]:
            partner = name.replace(one, other)
            draft.state[name], draft.state[partner] = draft.state[partner], draft.state[name]

    return edit


def added(name: str, tensor: torch.Tensor) -> Edit:
    def edit(draft: Draft) -> None:
        draft.state[name] = tensor.clone()

    return edit


def copied(source: str, target: str) -> Edit:
    """Let one tensor hold the bytes of another."""

    def edit(draft: Draft) -> None:
        draft.state[target] = draft.state[source].clone()

    return edit


def configured(**values: Any) -> Edit:
    def edit(draft: Draft) -> None:
        draft.config.update(values)

    return edit


def unpinned(draft: Draft) -> None:
    """Forget the pinned facts, so that only behaviour can tell."""

    from apr.formats.recorded import Recorded

    draft.recorded = draft.recorded._replace(config_facts=Recorded().config_facts)


def together(*edits: Edit) -> Edit:
    def edit(draft: Draft) -> None:
        for each in edits:
            each(draft)

    return edit


def on_disk(change: Callable[[Path], None]) -> Edit:
    """An edit of what was written."""

    def edit(draft: Draft) -> None:
        draft.after.append(change)

    return edit


def weight_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def on_load(change: Callable[[Any], None]) -> Edit:
    """What happens to the model after the loader is done, as post-load hooks and wrappers do."""

    def edit(draft: Draft) -> None:
        draft.on_load = change

    return edit


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
