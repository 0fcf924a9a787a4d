"""`apr`: know that a model really starts from the weights you named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apr.errors import AprError, DamagedFileError, NotFoundError, RefusedError
    from apr.gates.finding import Finding
    from apr.gates.road import Examination
    from apr.library.adapters import verify_adapter
    from apr.library.api import load_verified, preflight, verify_loaded
    from apr.loading.receipt import Receipt

__version__ = "0.1.0"

__all__ = [
    "AprError",
    "DamagedFileError",
    "Examination",
    "Finding",
    "NotFoundError",
    "Receipt",
    "RefusedError",
    "__version__",
    "load_verified",
    "preflight",
    "verify_adapter",
    "verify_loaded",
]

# Public name to the module that has it; imported when it is first asked for, so that `import apr` costs nothing.
_HOME = {
    "AprError": "apr.errors",
    "DamagedFileError": "apr.errors",
    "Examination": "apr.gates.road",
    "Finding": "apr.gates.finding",
    "NotFoundError": "apr.errors",
    "Receipt": "apr.loading.receipt",
    "RefusedError": "apr.errors",
    "load_verified": "apr.library.api",
    "preflight": "apr.library.api",
    "verify_adapter": "apr.library.adapters",
    "verify_loaded": "apr.library.api",
}
_SUBMODULES = ("hf", "lightning")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"apr.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
