"""`apr version`: which code ran, for reports and bug threads."""

from __future__ import annotations

import platform

import click

from apr import __version__
from apr.cli.options import json_option
from apr.cli.out import Out

LIBRARIES = ("click", "numpy", "safetensors", "gguf", "zlib-ng", "blake3", "torch", "transformers", "tokenizers")


@click.command("version")
@json_option
@click.pass_obj
def command(out: Out) -> None:
    """The version of apr, of Python and of the libraries it uses; `-` is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    python = platform.python_version()
    out.document("apr.version/1", {"apr": __version__, "python": python, "libraries": found})
    out.pairs([("apr", __version__), ("python", python), *found.items()])
