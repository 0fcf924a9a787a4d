"""Around a file or directory that gives its name to another: no stamp in progress, and no journal of it left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apr.storage import operations
from apr.storage.journal import aside_of, journal_of_file, new_beside
from apr.storage.locking import lock_shared


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """Within the block `path` (a link is not followed) may be given to a new file: stamps of what stands there wait.

    Afterwards nothing is left of a stamp of the old file that was interrupted: its journal and copy would be taken for
    those of the new one. Raises InputOutputError when a stamp in progress takes too long.
    """
    path = Path(os.path.abspath(path))
    descriptor = -1
    if not path.is_symlink():
        with suppress(OSError):  # Nothing there, or nothing that may be read: nobody stamps it.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if descriptor >= 0:
            lock_shared(descriptor, path)
        yield
        for left in (new_beside(path), aside_of(path), journal_of_file(path)):
            if os.path.lexists(left) and not os.path.isdir(left):
                operations.remove(left)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
