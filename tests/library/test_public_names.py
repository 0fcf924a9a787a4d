"""`import apr` costs nothing and names everything; the heavy libraries come with the calls that need them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import apr

HEAVY = ("torch", "transformers", "numpy", "lightning", "peft", "click", "pydantic")


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    "code", ["import apr", "import apr.hf", "import apr.lightning", "import apr; apr.preflight; apr.RefusedError"]
)
def test_importing_imports_no_heavy_library(code: str) -> None:
    assert imported_by(code) == set()


def test_the_check_of_imports_sees_a_heavy_one() -> None:
    assert imported_by("import apr; import numpy") == {"numpy"}


@pytest.mark.parametrize("name", sorted(set(apr.__all__) - {"__version__"}))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(apr, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_unverified'"):
        _ = apr.load_unverified  # type: ignore[attr-defined]


def test_the_submodules_hang_on_the_package() -> None:
    assert apr.hf.strict.__doc__
    assert apr.lightning.VerifyCallback.__doc__
