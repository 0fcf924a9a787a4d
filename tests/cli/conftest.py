"""How command tests run `apr`: in this process, with what it printed split into answer and talk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from apr.cli.main import run


@dataclass(frozen=True)
class Answer:
    """One finished command."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document it must be."""
        return json.loads(self.stdout)


@pytest.fixture
def apr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`apr("inspect", path, "--json")` gives the Answer of that command line."""
    for name in ("APR_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        exit_code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Answer(exit_code, printed.out, printed.err)

    return call
