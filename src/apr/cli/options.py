"""Options and parameter types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from apr.cli.out import Mode, Out
from apr.errors import UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class LocalPath(click.Path):
    """A path that may or may not exist: the reader, not click, says what is wrong with it (exit 3, not 2)."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            # pathlib would take it for the current directory.
            self.fail("the path is empty", param, ctx)
        if isinstance(value, str) and is_address(value):
            self.fail(
                f"{value!r} is an address, and this needs a local path; `apr preflight`, `apr inspect` and "
                "`apr tensors` read addresses. Download the model first.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class Source(LocalPath):
    """A local path, or as a `str` the address of a checkpoint on another machine (`apr.cli.network`)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and is_address(value) else super().convert(value, param, ctx)


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address and not as a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


PATH = LocalPath()
SOURCE = Source()


def plain_http_option(function: Decorated) -> Decorated:
    """Add `--plain-http`, for commands that take a SOURCE."""
    option = click.option(
        "--plain-http",
        "allows_plain_http",
        is_flag=True,
        help="Read http:// addresses of other machines too, where you trust the network.",
    )
    return option(function)


def _set_mode(ctx: click.Context, _parameter: click.Parameter, is_json: bool) -> None:
    if is_json:
        ctx.ensure_object(Out).mode = Mode.JSON


def json_option(function: Decorated) -> Decorated:
    """Add `--json`: the answer as one JSON document on stdout. The command takes its `Out` with `click.pass_obj`."""
    option = click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_mode,
        help="Answer with one JSON document.",
    )
    return option(function)


def force_option(function: Decorated) -> Decorated:
    """Add `-f`, `--force`: replace the output when it exists."""
    return click.option("-f", "--force", is_flag=True, help="Replace the output when it exists.")(function)


def allow_gate_option(recorded_in: str = "") -> Callable[[Decorated], Decorated]:
    """Add `--allow-gate ID=REASON`, repeatable, as `allowed_gates`. recorded_in: where the reason goes."""
    return click.option(
        "--allow-gate",
        "allowed_gates",
        multiple=True,
        metavar="ID=REASON",
        help=f"Let one gate's refusal pass, with a reason that is recorded{recorded_in}.",
    )


def allow_options(function: Decorated) -> Decorated:
    """Add `--allow TENSOR=REASON` and `--allow-gate ID=REASON`, both repeatable."""
    return click.option(
        "--allow",
        "allowed_tensors",
        multiple=True,
        metavar="TENSOR=REASON",
        help="Accept one unfilled or unused tensor, with a reason that is recorded.",
    )(allow_gate_option()(function))


def parse_reasons(entries: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=REASON` entries as a mapping; UsageError when one has no reason."""
    reasons = {}
    for entry in entries:
        name, separator, reason = entry.partition("=")
        if not (name and separator and reason.strip()):
            raise UsageError(
                f"{option} needs a name and a reason", expected=f"{option} NAME=REASON", found=f"{option} {entry}"
            )
        reasons[name] = reason.strip()
    return reasons
