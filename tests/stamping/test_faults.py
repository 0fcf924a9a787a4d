"""A stamp that cannot be completed leaves everything as it was, says why, and leaves no temporary file."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apr.convert import proof
from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, UsageError
from apr.formats.registry import open_checkpoint
from apr.stamping import anew, in_place
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.stamping.result import BY_COPY_NOTE
from apr.storage import operations
from tests.stamping.conftest import QWEN2, Lie, files_below

DESTINATIONS = ("output", "in place")


def stamp(lie: Lie, destination: str, changes: StampChanges = QWEN2) -> Path:
    if destination == "output":
        return stamp_file(lie.path, changes, lie.output()).output
    return stamp_file(lie.path, changes, in_place=True).output


def fail_during(monkeypatch: pytest.MonkeyPatch, container: str, destination: str, error: BaseException) -> None:
    """Let the writer of `container` fail after its first bytes (or, in a directory, before its last small file)."""
    if destination == "in place":
        operation = "rename" if container == "hf" else "write"
        fail_in_call(monkeypatch, operation, 2, error)
        return
    if container == "gguf":  # The kernel has copied the tensors; the header follows.
        fail_in_call(monkeypatch, "write", 1, error)
        return
    fail_in_call(monkeypatch, "copy_range", 2 if container == "hf" else 1, error)


def fail_in_call(monkeypatch: pytest.MonkeyPatch, operation: str, number: int, error: BaseException) -> None:
    """Let call `number` (counted from 1) of a storage operation raise `error`, once."""
    calls = iter(range(1, 10**6))
    original = getattr(operations, operation)

    def failing(*arguments: Any) -> Any:
        if next(calls) == number:
            raise error
        return original(*arguments)

    monkeypatch.setattr(operations, operation, failing)


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.falsifies("FALSIFY-STAMP-ATOMIC-001")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_full_disk_in_the_middle_leaves_everything_as_it_was(
    lie: Lie, destination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(lie.path.parent)
    fail_during(monkeypatch, lie.container, destination, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises((InputOutputError, OSError)) as caught:
        stamp(lie, destination)
    assert "No space left on device" in str(caught.value)
    assert files_below(lie.path.parent) == before
    assert not lie.output().exists()


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_an_interrupt_in_the_middle_leaves_everything_as_it_was(
    lie: Lie, destination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(lie.path.parent)
    fail_during(monkeypatch, lie.container, destination, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        stamp(lie, destination)
    assert files_below(lie.path.parent) == before


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
@pytest.mark.falsifies("FALSIFY-STAMP-BYTES-001")
def test_a_stamped_copy_in_which_a_tensor_stands_elsewhere_is_never_published(
    lie: Lie, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(lie.path.parent)
    monkeypatch.setattr(anew, "open_checkpoint", one_tensor_moved)
    with pytest.raises(RefusedError, match="would not stand as they stood") as caught:
        stamp(lie, "output")
    assert caught.value.invariant == "INV-STAMP-BYTES-001"
    assert files_below(lie.path.parent) == before


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
def test_a_streamed_copy_whose_tensors_differ_is_never_published(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = make_lie("apr-typed-only")
    lie.path.write_bytes(lie.path.read_bytes()[:-4])
    before = files_below(lie.path.parent)
    original = proof._stored
    calls = iter([0, 1])

    def one_digest_differs_when_read_back(*arguments: Any) -> dict[str, proof.StoredTensor]:
        found = original(*arguments)
        if next(calls) == 1:
            name = sorted(found)[0]
            found[name] = found[name]._replace(blake3_hex="0" * 64)
        return found

    monkeypatch.setattr(proof, "_stored", one_digest_differs_when_read_back)
    with pytest.raises(RefusedError, match="not written as they are") as caught:
        stamp(lie, "output")
    assert caught.value.invariant == "INV-STAMP-BYTES-001"
    assert files_below(lie.path.parent) == before


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
def test_a_stamp_in_place_after_which_a_tensor_stands_elsewhere_is_taken_back(
    lie: Lie, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(lie.path.parent)
    monkeypatch.setattr(in_place, "open_checkpoint", one_tensor_moved)
    with pytest.raises(RefusedError, match="taken back") as caught:
        stamp(lie, "in place")
    assert caught.value.invariant == "INV-STAMP-BYTES-001"
    assert files_below(lie.path.parent) == before


def one_tensor_moved(path: Path) -> Any:
    """The checkpoint at `path` as if its first tensor stood elsewhere."""
    checkpoint = open_checkpoint(path)
    name, entry = next(iter(checkpoint.tensors.items()))
    tensors = {**checkpoint.tensors, name: entry._replace(offset_bytes=entry.offset_bytes + 64)}
    return replace(checkpoint, tensors=tensors)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB of its own; skipped where mounting is not allowed."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=False)


def test_a_disk_that_is_really_full_is_reported_and_left_clean(
    small_disk: Path, make_lie: Callable[[str], Lie], tmp_path: Path
) -> None:
    lie = make_lie("apr")
    (small_disk / "occupied").write_bytes(bytes(400 << 10))
    output = small_disk / "out.apr"
    with pytest.raises(InputOutputError) as caught:
        stamp_file(lie.path, QWEN2, output)
    assert caught.value.exit_code == 7
    assert [path.name for path in small_disk.iterdir()] == ["occupied"]


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
@pytest.mark.parametrize("container", ["apr", "apr-typed-only", "hf"])
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_damaged_bytes_are_not_sealed_with_fresh_checksums(
    make_lie: Callable[[str], Lie], container: str, destination: str
) -> None:
    lie = make_lie(container)
    file = lie.path / "model.safetensors" if lie.path.is_dir() else lie.path
    data = bytearray(file.read_bytes())
    data[-200] ^= 0x10
    file.write_bytes(data)
    with open_checkpoint(stamp(lie, destination)) as stamped:
        assert stamped.verify_checksums() != ()


def test_a_damaged_file_whose_copy_would_get_new_checksums_is_refused(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    data = bytearray(lie.path.read_bytes()[:-4])
    data[-200] ^= 0x10
    lie.path.write_bytes(data)
    before = files_below(lie.path.parent)
    with pytest.raises(DamagedFileError) as caught:
        stamp(lie, "output")
    assert caught.value.invariant == "INV-FILE-INTEGRITY-001"
    assert files_below(lie.path.parent) == before


def test_a_file_without_write_permission_is_not_replaced(make_lie: Callable[[str], Lie]) -> None:
    for container in ("apr", "hf"):
        lie = make_lie(container)
        target = lie.path / "config.json" if lie.path.is_dir() else lie.path
        target.chmod(0o444)
        before = files_below(lie.path)
        with pytest.raises(InputOutputError, match="read-only") as caught:
            stamp(lie, "in place")
        assert f"chmod u+w {target}" in str(caught.value.remedy)
        assert files_below(lie.path) == before
        assert stamp(lie, "output").exists()
        target.chmod(0o644)


def test_permissions_survive_a_stamp_in_place(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    lie.path.chmod(0o640)
    stamp(lie, "in place")
    assert lie.path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed_to_the_file_it_leads_to(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    link = tmp_path / "link.apr"
    link.symlink_to(lie.path)
    result = stamp_file(link, QWEN2, in_place=True)
    assert result.output == lie.path.resolve()
    assert link.is_symlink()
    with open_checkpoint(lie.path) as checkpoint:
        assert checkpoint.metadata["architecture"] == "qwen2"


@pytest.mark.parametrize("container", ["apr-typed-only", "safetensors", "gguf"])
def test_other_hard_links_keep_the_old_stamps_and_the_user_is_told(
    make_lie: Callable[[str], Lie], tmp_path: Path, container: str
) -> None:
    lie = make_lie(container)
    other = tmp_path / "other"
    os.link(lie.path, other)
    before = other.read_bytes()
    result = stamp_file(lie.path, QWEN2, in_place=True)
    assert "1 other hard links to this file keep the old stamps" in result.notes
    assert BY_COPY_NOTE not in result.notes
    assert other.read_bytes() == before
    with open_checkpoint(lie.path) as checkpoint:
        assert "qwen2" in {stamp.value for stamp in checkpoint.stamps}


def test_each_hard_link_in_a_directory_is_told_of_by_the_file_it_is_to(sharded: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(sharded, directory)
    names = ("config.json", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    for name in names:
        os.link(directory / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    result = stamp_file(directory, StampChanges(license="Apache-2.0", settings={"note": "x"}), in_place=True)
    linked = [note for note in result.notes if "hard links" in note]
    assert linked == [f"1 other hard links to {name} keep the old stamps" for name in names[:2]]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    with open_checkpoint(directory) as checkpoint:
        assert {texts["license"] for texts in checkpoint.weight_metadata.values()} == {"Apache-2.0"}


def test_missing_foreign_and_empty_inputs_have_their_own_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        stamp_file(tmp_path / "missing.apr", QWEN2, tmp_path / "out.apr")
    for name, data in (("empty.apr", b""), ("text.txt", b"hello" * 20), ("model.gguf", b"GGUF" + bytes(60))):
        (tmp_path / name).write_bytes(data)
        for options in ({"output": tmp_path / "out.apr"}, {"in_place": True}):
            with pytest.raises(DamagedFileError) as caught:
                stamp_file(tmp_path / name, QWEN2, **options)
            assert caught.value.exit_code == 4
            assert (tmp_path / name).read_bytes() == data
    assert not (tmp_path / "out.apr").exists()


def test_a_missing_input_is_named_before_anything_about_the_output(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        stamp_file(tmp_path / "missing.apr", QWEN2, in_place=True)
    assert "missing.apr" in str(caught.value)


def test_an_existing_output_is_kept_unless_forced(lie: Lie) -> None:
    if lie.path.is_dir():
        lie.output().mkdir()
        (lie.output() / "config.json").write_text("{}")
    else:
        lie.output().write_text("precious")
    before = files_below(lie.output())
    with pytest.raises(RefusedError, match="exists already") as caught:
        stamp(lie, "output")
    assert "--force" in str(caught.value.remedy)
    assert files_below(lie.output()) == before
    stamp_file(lie.path, QWEN2, lie.output(), force=True)
    with open_checkpoint(lie.output()) as checkpoint:
        assert checkpoint.stamps


def test_a_directory_that_is_no_checkpoint_is_not_replaced_even_with_force(
    make_lie: Callable[[str], Lie], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("precious")
    for container in ("hf", "apr"):
        with pytest.raises(RefusedError, match="no checkpoint"):
            stamp_file(make_lie(container).path, QWEN2, home, force=True)
    assert (home / "thesis.txt").read_text() == "precious"


def test_where_the_result_goes_must_be_said_once_and_elsewhere(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    link = tmp_path / "link.apr"
    link.symlink_to(lie.path)
    for options, text in (
        ({}, "neither"),
        ({"output": lie.output(), "in_place": True}, "both"),
        ({"output": lie.path}, "--in-place"),
        ({"output": link}, "--in-place"),
    ):
        with pytest.raises(UsageError) as caught:
            stamp_file(lie.path, QWEN2, **options)
        assert text in str(caught.value)
    directory = make_lie("hf").path
    for inside_or_around in (directory / "inside", directory.parent):
        with pytest.raises(UsageError, match="the output is the input"):
            stamp_file(directory, QWEN2, inside_or_around, force=True)
    with pytest.raises(NotFoundError, match="directory of the output"):
        stamp_file(lie.path, QWEN2, tmp_path / "nowhere" / "x.apr")
