"""Write `docs/commands.md` from the real command line; `--check` fails when the page is stale (a test runs it)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from apr.cli.main import cli
from apr.cli.table import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
WIDTH = 110
HEAD = """# Commands

Generated from the command line itself by `tools/build_command_reference.py` (`make docs`); a test fails when it is
stale. Exit codes: [exit-codes.md](exit-codes.md). Every command takes `--json` and then answers with one document whose
`schema` field names its form.

Completion: `eval "$(_APR_COMPLETE=bash_source apr)"` in `~/.bashrc` (`zsh_source` in `~/.zshrc`,
`_APR_COMPLETE=fish_source apr | source` in fish).

Environment: `NO_COLOR` and `FORCE_COLOR` as everywhere; `APR_DEBUG=1` shows tracebacks and what libraries say; for
addresses ([remote.md](remote.md)) `HF_ENDPOINT`, `HF_TOKEN`, `HTTPS_PROXY` and `NO_PROXY`.
"""


def root_context() -> click.Context:
    """The context of `apr` itself, with the settings that the real one has."""
    names = cli.context_settings["help_option_names"]
    return click.Context(cli, info_name="apr", terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=names)


def help_text(command: click.Command, *names: str) -> str:
    """What `apr NAMES --help` prints at a fixed width."""
    context = root_context()
    for name, each in zip(names, [command] if len(names) == 1 else [None, command], strict=True):
        context = click.Context(each or click.Group(name), info_name=name, parent=context)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page() -> Iterator[str]:
    """The page, part by part."""
    yield HEAD
    root = root_context()
    yield f"## apr\n\n```text\n{cli.get_help(root)}\n```\n"
    for row in COMMANDS:
        command = cli.get_command(root, row.name)
        if command is None:
            raise SystemExit(f"{row.name}: listed, but not there")
        yield f"## apr {row.name}\n\n```text\n{help_text(command, row.name)}\n```\n"
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield f"### apr {row.name} {name}\n\n```text\n{help_text(child, row.name, name)}\n```\n"


def main() -> int:
    text = "\n".join(page())
    if "--check" in sys.argv[1:]:
        is_current = PAGE.exists() and PAGE.read_text() == text
        print("docs/commands.md is current" if is_current else "docs/commands.md is stale: run `make docs`")
        return 0 if is_current else 1
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
