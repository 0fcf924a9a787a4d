"""Every error a user of `apr` can meet: one root, one child per thing the user can do about it.

A message is built from facts in a fixed order (what failed, where, expected, found, next step), so that the command
line, the JSON output and the tests all read the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar

LONGEST_SHOWN = 8000
LONGEST_NAME_SHOWN = 240
"""Characters of a line, and of a name in it: names of tensors stay below 120, and paths below 4,096."""


class ExitCode(IntEnum):
    """Process exit codes, documented in `docs/exit-codes.md`; public and stable."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_FOUND = 3
    DAMAGED = 4
    REFUSED = 5
    GUARD_STOPPED = 6
    INPUT_OUTPUT = 7
    INTERRUPTED_RESUMABLE = 75
    INTERRUPTED = 130


def escape_control(text: str) -> str:
    """`text` with control, bidirectional and unencodable characters shown as escapes, safe for a terminal.

    Names of tensors, files and metadata keys come from untrusted files and may carry terminal sequences.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


class Lines(str):
    """Text of several lines, each escaped already; made by `in_lines` alone.

    A plain text is always one line to whoever shows it, so that a name with a line break in it, read from a file,
    cannot look like a line of `apr`.
    """

    __slots__ = ()


def in_lines(*parts: str) -> Lines:
    """`parts` one below the other; a part that is `Lines` itself keeps its own."""
    return Lines("\n".join(part if isinstance(part, Lines) else escape_control(part) for part in parts))


def shown_lines(text: str, longest: int | None = LONGEST_SHOWN) -> list[str]:
    """What a person is shown of `text`, line by line, safe for a terminal.

    longest: characters of a line, None for all of them: a command is copied, and is of no use when it is cut.
    """
    lines = text.split("\n") if isinstance(text, Lines) else [escape_control(text)]
    return [line if longest is None else shortened(line, longest) for line in lines]


def shortened(text: str, longest: int) -> str:
    """`text`, with the middle left out where it has more than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - longest // 4 - 1]}…{text[-(longest // 4) :]}"


def shown_name(name: str) -> str:
    """A name from a file, as part of a sentence: escaped, and shortened where it is no name any more."""
    return escape_control(shortened(name, LONGEST_NAME_SHOWN))


def shown_text(value: object) -> str:
    """As `shown_value`, without the quotes of a text."""
    return shortened(str(value), LONGEST_NAME_SHOWN)


def shown_value(value: object) -> str:
    """A value from a file, as part of a sentence: as Python writes it, shortened where that is long."""
    return shortened(repr(value), LONGEST_NAME_SHOWN)


def shell_word(text: object, *, is_quoted: bool = False) -> str:
    """`text` as one word of a POSIX shell and on one line; control characters in the form `$'...'` (POSIX 2024).

    A path that begins with a dash is never taken for an option. is_quoted: between quotes even where the shell needs
    none, for a word that people go on to edit.
    """
    import shlex

    word = f"./{text}" if str(text).startswith("-") and not is_quoted else str(text)
    if word != escape_control(word):
        escaped = word.replace("\\", "\\\\").replace("'", "\\'")
        return "$'" + "".join(_shell_escape(character) for character in escaped) + "'"
    quoted = shlex.quote(word)
    return f"'{word}'" if is_quoted and quoted == word else quoted


def _shell_escape(character: str) -> str:
    if character.isprintable():
        return character
    # Python holds bytes of a path that are no UTF-8 as these surrogates.
    errors = "surrogateescape" if 0xDC80 <= ord(character) <= 0xDCFF else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", errors))


class AprError(Exception):
    """Root of all errors of `apr`.

    what: one sentence, what failed. where: file, tensor, key or offset. expected / found: the two sides.
    remedy: the exact next command or action. invariant: the public id of the gate or check, if one speaks.
    facts: machine-readable details for `--json`.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        remedy: str | None = None,
        invariant: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.invariant = invariant
        self.facts: Mapping[str, Any] = MappingProxyType(dict(facts or {}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes (workers, test runners) and are copied, with all their facts."""
        return _error_of, (type(self), self.what), {**self.__dict__, "facts": dict(self.facts)}

    def __setstate__(self, state: Mapping[str, Any] | None) -> None:
        self.__dict__.update(state or {})
        self.facts = MappingProxyType(dict(self.facts))

    def __str__(self) -> str:
        head = f"[{self.invariant}] {self.what}" if self.invariant else self.what
        rows = [("where", self.where), ("expected", self.expected), ("found", self.found), ("next", self.remedy)]
        lines = shown_lines(head)
        for label, value in rows:
            if value is not None:
                longest = None if label == "next" else LONGEST_SHOWN
                indented = "\n            ".join(shown_lines(value, longest))
                lines.append(f"  {label + ':':<9} {indented}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The error as stable JSON keys (`error` object of every `--json` answer)."""
        return {
            "kind": type(self).__name__,
            "exit_code": int(self.exit_code),
            "invariant": self.invariant,
            "message": self.what,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
            "facts": dict(self.facts),
        }


def _error_of(kind: type[AprError], what: str) -> AprError:
    return kind.__new__(kind, what)


class UsageError(AprError):
    """The command or the call was put together wrongly: change the arguments."""

    exit_code = ExitCode.USAGE


class NotFoundError(AprError):
    """A named path does not exist: correct the path."""

    exit_code = ExitCode.NOT_FOUND


class DamagedFileError(AprError):
    """A file is not of a known format, or its bytes contradict themselves: get an intact copy."""

    exit_code = ExitCode.DAMAGED


class RefusedError(AprError):
    """A gate or check refused: read the findings, then repair the stamp, the file or the command.

    findings: every refusing finding, in table order (`apr.gates.finding.Finding.to_json`).
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, what: str, *, findings: tuple[Mapping[str, Any], ...] = (), **keywords: Any) -> None:
        super().__init__(what, **keywords)
        self.findings = findings

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "findings": [dict(finding) for finding in self.findings]}


class GuardStopError(AprError):
    """Training was stopped by a guard (divergence, non-finite loss): look at the data or the learning rate."""

    exit_code = ExitCode.GUARD_STOPPED


class InputOutputError(AprError):
    """The operating system refused (disk full, permission): make room or change rights, then run again."""

    exit_code = ExitCode.INPUT_OUTPUT


class MissingExtraError(UsageError):
    """A command needs an optional dependency that is not installed: install the named extra."""


class InterruptedRunError(AprError):
    """The user interrupted a run. `resumable` says whether a checked checkpoint is left to go on from."""

    exit_code = ExitCode.INTERRUPTED


class InterruptedResumableError(InterruptedRunError):
    """Interrupted, and a checked checkpoint is left to go on from."""

    exit_code = ExitCode.INTERRUPTED_RESUMABLE


def unexpected_error(error: Exception) -> AprError:
    """What a user is told of an exception that nobody foresaw: its kind and text, and how to get the traceback."""
    text = " ".join(str(error).split())
    return AprError(
        f"unexpected {type(error).__name__}: {text[:500]}",
        remedy="run again with APR_DEBUG=1 for the traceback, and report it",
    )
