"""`--dry-run` says no where the stamp would: everything up to the first byte is done, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.errors import AprError
from apr.formats.apr2.layout import MOST_METADATA_BYTES
from apr.formats.safetensors import edit as safetensors_edit
from apr.formats.safetensors import header as safetensors_header
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import Lie, files_below

LARGEST = {
    "apr": MOST_METADATA_BYTES,
    "hf": 16 << 20,
    "safetensors": 1 << 20,
}
"""Container to the bytes its readers take of what a stamp writes; of safetensors a hundredth, for speed."""


def ended(path: Path, changes: StampChanges, **options: Any) -> tuple[type, str] | None:
    """How a stamp fails; None when it does not."""
    try:
        stamp_file(path, changes, **options)
    except AprError as error:
        return type(error), error.what
    return None


@pytest.mark.parametrize("container", LARGEST)
def test_what_would_be_longer_than_is_read_is_refused_in_advance(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    for module in (safetensors_edit, safetensors_header):
        monkeypatch.setattr(module, "LONGEST_HEADER_BYTES", LARGEST["safetensors"])
    lie = make_lie(container)
    before = files_below(lie.path.parent)
    changes = lie.repair._replace(
        settings={"x": "y" * LARGEST[container]}, architecture=None if container == "hf" else "qwen2"
    )
    for where in ({"in_place": True}, {"output": lie.output()}):
        said = ended(lie.path, changes, dry_run=True, **where)
        assert said is not None
        assert ended(lie.path, changes, **where) == said
        assert files_below(lie.path.parent) == before


def test_a_weight_file_that_is_a_link_is_found_in_advance(sharded: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(sharded, tmp_path / "model"))
    shard = next(directory.glob("model-00001*"))
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    changes = StampChanges(license="Apache-2.0")
    said = ended(directory, changes, in_place=True, dry_run=True)
    assert said is not None
    assert "is a link" in said[1]
    assert ended(directory, changes, in_place=True) == said
    assert ended(directory, changes, output=tmp_path / "copy", dry_run=True) is None
    assert ended(directory, changes, output=tmp_path / "copy") is None


def test_a_dry_run_writes_nothing(lie: Lie) -> None:
    before = files_below(lie.path.parent)
    for where in ({"in_place": True}, {"output": lie.output()}):
        result = stamp_file(lie.path, lie.repair._replace(license="MIT"), dry_run=True, **where)  # type: ignore[arg-type]
        assert result.is_dry_run
        assert files_below(lie.path.parent) == before


def test_a_dry_run_of_an_undo_says_what_the_undo_does(lie: Lie) -> None:
    stamp_file(lie.path, lie.repair._replace(license="MIT"), in_place=True)
    before = files_below(lie.path.parent)
    said = stamp_file(lie.path, StampChanges(), in_place=True, undo=True, dry_run=True)
    assert files_below(lie.path.parent) == before
    assert stamp_file(lie.path, StampChanges(), in_place=True, undo=True).changes == said.changes
