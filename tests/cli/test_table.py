"""The table of commands: every row is real, and help and completion import none of them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from apr.cli.table import COMMANDS, CommandRow
from tests.cli.conftest import imported_by

HEAVY = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pydantic", "rich", "yaml", "gguf", "matplotlib")


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_listed_command_exists_and_explains_itself(row: CommandRow) -> None:
    command = getattr(importlib.import_module(row.module), row.attribute)
    assert isinstance(command, click.Command)
    assert command.help
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert any("--json" in parameter.opts for parameter in leaf.params), f"{leaf.name} lacks --json"
        for parameter in leaf.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{leaf.name} {parameter.opts} lacks a help text"


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_shows_help(apr: Callable, row: CommandRow) -> None:
    answer = apr(row.name, "--help")
    assert answer.exit_code == 0
    assert answer.stdout.startswith(f"Usage: apr {row.name}")


def test_help_imports_no_command_and_nothing_heavy() -> None:
    modules = imported_by("--help")
    assert modules.isdisjoint(HEAVY)
    assert modules.isdisjoint({row.module for row in COMMANDS})


def test_completion_lists_commands_without_importing_them() -> None:
    program = "import sys; from apr.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "_APR_COMPLETE": "bash_complete", "COMP_WORDS": "apr in", "COMP_CWORD": "1"}
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "plain,inspect" in result.stdout
    assert "apr.cli.inspect" not in result.stderr
