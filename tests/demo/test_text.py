"""The demo's text is there wherever Python is, and the same for everybody who has the same Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.demo.text import standard_library_files
from apr.errors import NotFoundError


def test_the_standard_library_gives_enough_text() -> None:
    files = standard_library_files(500_000)
    total_bytes = sum(path.stat().st_size for path in files)
    assert 450_000 < total_bytes <= 500_000
    assert files == standard_library_files(500_000)
    assert not any(part in ("test", "site-packages", "idlelib") for path in files for part in path.parts)


def test_which_files_are_taken_depends_on_their_names_alone(tmp_path: Path) -> None:
    def library(name: str, *, reverse: bool) -> Path:
        folder = tmp_path / name
        for number in sorted(range(20), reverse=reverse):
            path = folder / f"package{number % 3}" / f"module{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x = 1\n" * 20)
        (folder / "test").mkdir()
        (folder / "test" / "test_all.py").write_text("x = 1\n" * 20)
        return folder

    taken = [
        [path.relative_to(folder) for path in standard_library_files(1000, folder)]
        for folder in (library("one", reverse=False), library("two", reverse=True))
    ]
    assert taken[0] == taken[1]
    assert len(taken[0]) == 8
    assert all(path.parts[0] != "test" for path in taken[0])


def test_a_python_without_sources_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="too few sources") as caught:
        standard_library_files(100_000, tmp_path)
    assert caught.value.found == "0 bytes in 0 files"
