"""The directory of a demo: new, or one that an earlier demo left and that may be replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

from apr.errors import InputOutputError, RefusedError

MARKER_NAME = ".apr-demo"
MARKER_TEXT = "Made by `apr demo`; `apr demo --force` may replace this directory.\n"


def make_place(directory: Path, *, force: bool) -> None:
    """Make `directory` and mark it as a demo's.

    One that exists and is not empty is refused; with `force` the directory of an earlier demo, known by its marker,
    is removed first, and nothing else ever is. Raises RefusedError, InputOutputError.
    """
    try:
        if directory.is_symlink() or directory.exists():
            _clear(directory, force=force)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER_NAME).write_text(MARKER_TEXT, encoding="utf-8")
    except OSError as error:
        raise InputOutputError(
            f"cannot make the directory of the demo: {error.strerror}",
            where=str(directory),
            remedy="choose another --dir",
        ) from error


def _clear(directory: Path, *, force: bool) -> None:
    is_directory = directory.is_dir() and not directory.is_symlink()
    if is_directory and not any(directory.iterdir()):
        return
    is_demo = is_directory and (directory / MARKER_NAME).is_file()
    if is_demo and force:
        shutil.rmtree(directory)
        return
    raise RefusedError(
        "the directory exists already",
        where=str(directory),
        expected="a new or empty directory" if not force else "the directory of an earlier demo",
        found="an earlier demo" if is_demo else "other files" if is_directory else "no directory",
        remedy="add --force to replace it, or choose another --dir" if is_demo else "choose another --dir",
    )
