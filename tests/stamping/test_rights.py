"""A stamped copy is open to nobody who could not read its original, in every container and way of copying."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import Lie

FILES = ("apr", "safetensors", "gguf")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize(("given", "expected"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o4755, 0o755)])
def test_a_copied_file_has_the_rights_of_its_original(
    make_lie: Callable[[str], Lie], container: str, given: int, expected: int
) -> None:
    lie = make_lie(container)
    lie.path.chmod(given)
    assert mode(stamp_file(lie.path, lie.repair, lie.output()).output) == expected


def test_a_streamed_file_has_the_rights_of_its_original(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    lie.path.chmod(0o600)
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(make_lie("hf").path, tokenizer)
    (tokenizer / "tokenizer.model").write_bytes(b"\xff\xfe" * 64)
    result = stamp_file(lie.path, lie.repair._replace(tokenizer=tokenizer), lie.output())
    assert any("every byte was read back" in note for note in result.notes)
    assert mode(result.output) == 0o600


def test_a_copied_directory_has_the_rights_of_its_original(honest_qwen2: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(honest_qwen2, tmp_path / "model"))
    (source / "below").mkdir(mode=0o750)
    (source / "below" / "note.txt").write_text("private")
    (source / "apr.json").unlink()
    for file in source.rglob("*"):
        file.chmod(0o750 if file.is_dir() else 0o600)
    (source / "tokenizer.json").chmod(0o444)
    source.chmod(0o700)
    copy = stamp_file(source, StampChanges(license="MIT", settings={"use_cache": False}), tmp_path / "copy").output
    found = {str(file.relative_to(copy)): mode(file) for file in copy.rglob("*")}
    assert found.pop("apr.json") == 0o600
    assert found == {str(file.relative_to(source)): mode(file) for file in source.rglob("*")}
    assert mode(copy) == 0o700


def test_what_is_replaced_keeps_its_own_rights(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    lie.path.chmod(0o644)
    lie.output().write_bytes(b"in the way")
    lie.output().chmod(0o600)
    assert mode(stamp_file(lie.path, lie.repair, lie.output(), force=True).output) == 0o600
