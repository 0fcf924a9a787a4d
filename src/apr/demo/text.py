"""Real text that is on every machine that runs Python: the sources of its standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

from apr.errors import NotFoundError

# Not the library's own sources, or not its everyday code.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
    | {"__pycache__", "encodings", "pydoc_data"}
)


def standard_library_files(text_bytes: int, library: Path | None = None) -> tuple[Path, ...]:
    """Source files of the standard library, `text_bytes` in all or a little less, in order of path.

    library: None for the one of the running interpreter. Which files are taken depends on their names alone, mixed
    over all packages. Raises NotFoundError where no sources are installed.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    sources = sorted(
        (path for path in library.rglob("*.py") if not _is_skipped(path, library)),
        key=lambda path: hashlib.blake2b(path.relative_to(library).as_posix().encode()).digest(),
    )
    taken: list[Path] = []
    total_bytes = 0
    for path in sources:
        size_bytes = path.stat().st_size
        if 0 < size_bytes <= text_bytes - total_bytes:
            taken.append(path)
            total_bytes += size_bytes
    if total_bytes < text_bytes // 2:
        raise NotFoundError(
            "this Python carries too few sources of its standard library for the demo",
            where=str(library),
            expected=f"about {text_bytes:,} bytes of .py files",
            found=f"{total_bytes:,} bytes in {len(taken)} files",
            remedy="run the demo with a Python that was installed with its library sources",
        )
    return tuple(sorted(taken))


def _is_skipped(path: Path, library: Path) -> bool:
    folders = path.relative_to(library).parts[:-1]
    return any(name in SKIPPED_FOLDERS or name.startswith("config-") for name in folders) or not path.is_file()
