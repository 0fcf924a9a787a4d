"""Where results are written before they appear: beside their place, held by a lock, and cleared away by the next one.

A killed process cannot remove what it wrote. Its lock ends with it, so whoever writes to the same place next knows that
what it left belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apr.storage.checksums import crc32

SUFFIX = ".apr-tmp"

_TAG_BYTES = 6
_LONGEST_NAME_BYTES = 255


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """An empty directory beside `target` for what will stand there; at the end it goes, with all that is left in it.

    What killed processes left there for the same target is removed first, and it is said (logger `apr`).
    """
    stem = _stem(target.name)
    _clear(target, stem)
    directory = target.parent / f"{stem}{os.urandom(_TAG_BYTES).hex()}{SUFFIX}"
    os.mkdir(directory)
    descriptor = -1
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _is_locked(descriptor)
        yield directory
    finally:
        _remove_tree(directory)
        if descriptor >= 0:
            os.close(descriptor)


def _clear(target: Path, stem: str) -> None:
    form = re.compile(re.escape(stem) + f"[0-9a-f]{{{2 * _TAG_BYTES}}}" + re.escape(SUFFIX))
    names: list[str] = []
    with suppress(OSError):  # A directory that cannot be listed.
        names = [name for name in sorted(os.listdir(target.parent)) if form.fullmatch(name)]
    for name in names:
        with suppress(OSError):  # One that belongs to others, or is gone by now.
            _clear_one(target.parent / name, target)


def _clear_one(directory: Path, target: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _is_locked(descriptor):
            _remove_tree(directory)
            _say(target)
    finally:
        os.close(descriptor)


def _say(target: Path) -> None:
    import logging

    logging.getLogger("apr").warning("what a process that was killed had written for %s was removed", target)


def _is_locked(descriptor: int) -> bool:
    """Whether the lock of the directory is ours now; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stem(name: str) -> str:
    """What the names of all temporary directories for `name` begin with."""
    longest_bytes = _LONGEST_NAME_BYTES - 2 * _TAG_BYTES - len(SUFFIX)
    stem = f".{name}."
    raw = os.fsencode(stem)
    if len(raw) <= longest_bytes:
        return stem
    tag = f"{crc32(raw):08x}."
    return raw[: longest_bytes - len(tag)].decode(errors="ignore") + tag


def _remove_tree(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
