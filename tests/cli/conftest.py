"""How command tests run `apr`: in this process, with what it printed split into answer and talk."""

from __future__ import annotations

import json
import subprocess
import sys
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


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `apr ARGUMENTS`."""
    program = (
        "import sys; from apr.cli.main import run; run(sys.argv[1:]); sys.stdout.flush();"
        "sys.stderr.write('\\n' + ' '.join(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines()[-1].split())
