"""The commands of `apr` as data, and the group that imports a command's module only when it is run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class CommandRow(NamedTuple):
    """One command: its name, where it is defined, the help section it stands in and its one line of help."""

    name: str
    module: str
    section: str
    help: str
    attribute: str = "command"


LOOK, CHANGE, TRAIN, EXPLAIN = "Look at a checkpoint", "Change or convert", "Train", "Explain and prove"

COMMANDS: tuple[CommandRow, ...] = (
    CommandRow("inspect", "apr.cli.inspect", LOOK, "What a checkpoint is: claims, verdict, quality score."),
    CommandRow("validate", "apr.cli.validate", LOOK, "Read every byte: checksums, extents, finite values."),
    CommandRow("lint", "apr.cli.lint", LOOK, "What is still missing before publishing, with the commands."),
    CommandRow("tensors", "apr.cli.tensors", LOOK, "List the tensors, with statistics if asked."),
    CommandRow("diff", "apr.cli.diff", LOOK, "What two checkpoints have different, in any containers."),
    CommandRow("preflight", "apr.cli.preflight", LOOK, "Every gate of `pretrain --init`, without training."),
    CommandRow("lineage", "apr.cli.lineage", LOOK, "The chain of parents, each link verified."),
    CommandRow("verify", "apr.cli.sign", LOOK, "Is what was signed still the same, byte for byte?", "verify"),
    CommandRow("stamp", "apr.cli.stamp", CHANGE, "Change what a checkpoint says of itself; refuses a lie."),
    CommandRow("sign", "apr.cli.sign", CHANGE, "Sign a checkpoint or a run with OpenSSF model-signing.", "sign"),
    CommandRow("import", "apr.cli.import_", CHANGE, "Hugging Face directory or safetensors to APR."),
    CommandRow("convert", "apr.cli.import_", CHANGE, "The same as `import`."),
    CommandRow("export", "apr.cli.export", CHANGE, "APR to a Hugging Face directory or safetensors."),
    CommandRow("tokenize", "apr.cli.tokenize", TRAIN, "Train a tokenizer; encode a corpus into token shards."),
    CommandRow(
        "pretrain", "apr.cli.pretrain", TRAIN, "Train, from scratch or from a checkpoint that passed the gates."
    ),
    CommandRow("report", "apr.cli.report", TRAIN, "Curves, gates and receipts of runs, as HTML and PNG."),
    CommandRow("demo", "apr.cli.demo", TRAIN, "The founding story, end to end, on real text."),
    CommandRow("explain", "apr.cli.explain", EXPLAIN, "An invariant in words, its tests and their last result."),
    CommandRow("contract", "apr.cli.contract", EXPLAIN, "List, show and check the contracts behind the gates."),
    CommandRow("version", "apr.cli.version", EXPLAIN, "The version of apr and of the libraries it uses."),
)


class TableGroup(click.Group):
    """A group whose commands come from a table of rows; help and completion import none of them."""

    def __init__(self, *, rows: tuple[CommandRow, ...] = COMMANDS, **keywords: object) -> None:
        super().__init__(**keywords)  # type: ignore[arg-type]
        self.rows = {row.name: row for row in rows}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self.rows.get(cmd_name)
        if row is None:
            return None
        command: click.Command = getattr(importlib.import_module(row.module), row.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(row.section for row in self.rows.values()):
            with formatter.section(section):
                formatter.write_dl([(row.name, row.help) for row in self.rows.values() if row.section == section])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        options = click.Command.shell_complete(self, ctx, incomplete)
        names = [row for row in self.rows.values() if row.name.startswith(incomplete)]
        return [CompletionItem(row.name, help=row.help) for row in names] + options
