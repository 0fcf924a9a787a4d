"""The real command line, run as a user runs it: another process, its own exit code, its own output."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apr.errors import DamagedFileError


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """One `apr` command and how it ended. line: as a user would type it. seconds: wall time, process start included."""

    line: str
    exit_code: int
    answer: str
    messages: str
    seconds: float

    @property
    def text(self) -> str:
        """What the user sees: the answer, then what was said beside it."""
        return "\n".join(part.rstrip() for part in (self.answer, self.messages) if part.strip())

    def document(self) -> dict[str, Any]:
        """The JSON answer; DamagedFileError when the command gave none."""
        try:
            document = json.loads(self.answer)
        except ValueError as error:
            raise DamagedFileError(
                "a command of the demo gave no JSON answer", where=self.line, found=self.text[:400]
            ) from error
        return dict(document)


def run_apr(arguments: Sequence[str], directory: Path) -> CommandOutcome:
    """Run `apr ARGUMENTS` in `directory`, with the interpreter and the environment of this process."""
    started_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "apr.cli.main", *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="backslashreplace",
    )
    return CommandOutcome(
        line=shlex.join(("apr", *arguments)),
        exit_code=done.returncode,
        answer=done.stdout,
        messages=done.stderr,
        seconds=time.perf_counter() - started_s,
    )


def printed_command(text: str, start: str) -> list[str] | None:
    """The first command line in `text` that begins with `start`, as words; None when there is none."""
    for line in text.splitlines():
        place = line.find(start)
        if place >= 0:
            return shlex.split(line[place:])
    return None
