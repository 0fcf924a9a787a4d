"""Options and parameter types that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from apr.cli.out import Mode, Out

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class _Path(click.Path):
    """As click's, but an empty word names nothing: pathlib would take it for the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path, readable=False)
"""A path that may or may not exist: the reader, not click, says what is wrong with it (exit 3, not 2)."""


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
