"""Where a command of this room writes: a directory that is new, or was empty, and appears whole."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from apr.errors import InputOutputError
from apr.storage.atomic import atomic_directory


def new_directory(path: Path) -> AbstractContextManager[Path]:
    """`atomic_directory`, which also takes an existing empty directory, and creates missing parents.

    A directory with anything in it is refused, so that shards or files of an older run never mix with new ones.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputOutputError(f"cannot create the directory: {error.strerror}", where=str(path.parent)) from error
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):
            path.rmdir()
    return atomic_directory(path)
