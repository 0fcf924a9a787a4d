"""A copied directory keeps the rights of its original, as `cp -r` does: a private checkpoint has a private copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RIGHTS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def same_rights(source: Path, copy: Path) -> Iterator[None]:
    """Within the block the new directory `copy` is its owner's alone; then all in it has the rights it has in `source`.

    The umask takes away what it does from any new file. A file that `source` does not have gets the rights of
    `source/config.json`. The owner keeps the right to change what a directory holds.
    """
    allowed = _rights(copy) | stat.S_IRWXU
    copy.chmod(stat.S_IRWXU)
    yield
    for folder, _, names in os.walk(copy, topdown=False):
        for name in names:
            file = Path(folder, name)
            original = source / file.relative_to(copy)
            file.chmod(_rights(original if original.exists() else source / "config.json") & allowed)
        original = source / Path(folder).relative_to(copy)
        Path(folder).chmod(_rights(original) & allowed | stat.S_IRWXU)


def _rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & RIGHTS
