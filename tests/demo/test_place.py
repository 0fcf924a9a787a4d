"""The demo writes into a directory of its own and never removes anybody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.demo.place import MARKER_NAME, make_place
from apr.errors import RefusedError


def test_a_new_and_an_empty_directory_are_taken(tmp_path: Path) -> None:
    make_place(tmp_path / "a" / "b", force=False)
    make_place(tmp_path / "a" / "b" / "c", force=False)
    (tmp_path / "empty").mkdir()
    make_place(tmp_path / "empty", force=False)
    assert (tmp_path / "empty" / MARKER_NAME).is_file()


def test_an_earlier_demo_is_replaced_only_when_asked(tmp_path: Path) -> None:
    make_place(tmp_path, force=False)
    (tmp_path / "old").write_text("old")
    with pytest.raises(RefusedError, match="exists already") as caught:
        make_place(tmp_path, force=False)
    assert "add --force" in (caught.value.remedy or "")
    assert (tmp_path / "old").exists()
    make_place(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER_NAME]


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_removed(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RefusedError, match="exists already") as caught:
        make_place(tmp_path, force=force)
    assert caught.value.found == "other files"
    assert "--force" not in (caught.value.remedy or "")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_and_a_link_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    real = tmp_path / "real"
    make_place(real, force=False)
    (tmp_path / "link").symlink_to(real)
    for name in ("file", "link"):
        with pytest.raises(RefusedError, match="exists already"):
            make_place(tmp_path / name, force=True)
    assert (real / MARKER_NAME).exists()
