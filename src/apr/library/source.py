"""From what a user calls a model to the local path whose bytes can be held against it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from apr.errors import RefusedError, shell_word
from apr.formats.peft.read import ADAPTER_CONFIG_NAME

_HUB_KEYWORDS = ("cache_dir", "revision", "token", "subfolder")


def resolve_source(name: str | os.PathLike[str], **hub: Any) -> Path:
    """The local path of `name`: an existing path as it is, a Hugging Face hub id through the local cache.

    hub: keywords of `from_pretrained` that say where in the cache (cache_dir, revision, token, subfolder). Nothing is
    downloaded. A name that looks like a path, or like nothing in the cache, comes back as a path, so that opening it
    says what is missing; RefusedError when it can only be a hub id and is not in the cache.
    """
    path = Path(name)
    subfolder = str(hub.get("subfolder") or "")
    if path.exists() or not may_be_hub_id(str(name)):
        return path / subfolder if subfolder else path
    snapshot = _cached_snapshot(str(name), {key: hub[key] for key in _HUB_KEYWORDS if hub.get(key)})
    if snapshot is None:
        raise RefusedError(
            f"{name} cannot be verified: it is no local path, and the local hub cache does not hold it",
            where=str(name),
            expected="a local directory or file, or a hub id that was downloaded before",
            found="neither",
            remedy=f"download it first: hf download {shell_word(name)}",
            invariant="FALSIFY-APR-PRETRAIN-INIT-003",
        )
    return snapshot


def cached_source(name: str) -> Path | None:
    """As `resolve_source`, but None for a hub id that the local cache does not hold."""
    try:
        return resolve_source(name)
    except RefusedError:
        return None


def may_be_hub_id(name: str) -> bool:
    """`name` or `organisation/name`, as the hub allows them, where transformers is there to ask."""
    parts = name.split("/")
    if (
        len(parts) > 2
        or not all(parts)
        or parts[0] in {".", "..", "~"}
        or Path(name).suffix in {".apr", ".safetensors"}
    ):
        return False
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def _cached_snapshot(name: str, hub: dict[str, Any]) -> Path | None:
    from transformers.utils import cached_file

    for file_name in ("config.json", ADAPTER_CONFIG_NAME):
        try:
            config = cached_file(name, file_name, local_files_only=True, **hub)
        except (OSError, ValueError):
            continue
        if config is not None:
            return Path(config).parent
    return None
