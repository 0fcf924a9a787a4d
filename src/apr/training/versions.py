"""The versions of everything that computed a number."""

from __future__ import annotations

import importlib.metadata
import platform

from apr import __version__

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


def library_versions() -> dict[str, str]:
    """Name to version of apr, Python and the libraries a run computes with; those not installed are left out."""
    versions = {"apr": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
