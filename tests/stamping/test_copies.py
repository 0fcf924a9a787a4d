"""A stamp with -o: the kernel copies, no tensor is read, and what cannot be copied so is said to be read back."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.convert.publishing import check_output
from apr.errors import InputOutputError, RefusedError
from apr.formats.registry import open_checkpoint
from apr.quality.facts import text_stamp
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.storage import operations, recovery
from apr.storage.reading import SourceFile
from tests.stamping.conftest import QWEN2, Lie, files_below, stored_digests

LARGE = StampChanges(settings={"note": "x" * 20_000})


@pytest.mark.falsifies("FALSIFY-STAMP-BYTES-001")
@pytest.mark.parametrize("growth", [QWEN2, StampChanges(**QWEN2.identity, settings=LARGE.settings)], ids=["a", "b"])
def test_a_stamped_copy_is_made_without_reading_a_tensor(
    lie: Lie, growth: StampChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, before = stored_digests(lie.path), files_below(lie.path)

    def streamed(*_: object) -> Any:
        raise AssertionError("a tensor was read")

    with monkeypatch.context() as patched:
        patched.setattr(SourceFile, "stream", streamed)
        told: list[tuple[int, int]] = []
        result = stamp_file(lie.path, growth, lie.output(), report=lambda *each: told.append(each))
    assert sum(count for count, _ in told) >= result.input_bytes * 0.99
    assert stored_digests(result.output) == digests
    assert files_below(lie.path) == before
    assert not any("read back" in note for note in result.notes)
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.verify_checksums() == ()


def test_a_copy_takes_the_way_of_the_file_system(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = make_lie("apr")
    digests = stored_digests(lie.path)
    used: list[str] = []
    for operation in ("clone_range", "copy_range"):
        original = getattr(operations, operation)

        def refused(*arguments: Any, name: str = operation, original: Any = original) -> Any:
            used.append(name)
            raise operations.NotOfferedError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(operations, operation, refused)
    result = stamp_file(lie.path, QWEN2, lie.output())
    assert list(dict.fromkeys(used)) == ["clone_range", "copy_range"]
    assert stored_digests(result.output) == digests


def test_where_bytes_must_be_read_it_is_said_why(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr-typed-only")
    lie.path.write_bytes(lie.path.read_bytes()[:-4])
    result = stamp_file(lie.path, QWEN2, lie.output())
    assert "every byte was read back: the file has no checksum at its end, and the copy gets one" in result.notes
    assert any("every digest as before" in finding.message for finding in result.findings)


def test_a_directory_of_links_is_copied_and_not_stamped_in_place(sharded: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in sharded.iterdir():
        (snapshot / file.name).symlink_to(file)
    before = files_below(sharded)
    with pytest.raises(InputOutputError, match="is a link") as caught:
        stamp_file(snapshot, StampChanges(license="Apache-2.0"), in_place=True)
    assert caught.value.remedy == "write a stamped copy with -o OUT"
    result = stamp_file(snapshot, StampChanges(license="Apache-2.0"), tmp_path / "out")
    with open_checkpoint(result.output) as checkpoint:
        assert {texts["license"] for texts in checkpoint.weight_metadata.values()} == {"Apache-2.0"}
    assert not any(file.is_symlink() for file in result.output.iterdir())
    assert files_below(sharded) == before


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("is_offered", [True, False])
def test_an_output_that_is_replaced_changes_places_in_one_step_where_that_is_offered(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, is_offered: bool
) -> None:
    lie = make_lie("hf")
    shutil.copytree(lie.path, lie.output())
    names = {path.name for path in lie.path.parent.iterdir()}
    exchange, exchanged = operations.exchange, []

    def watched(one: Path, other: Path) -> None:
        if not is_offered:
            raise operations.NotOfferedError(errno.EINVAL, os.strerror(errno.EINVAL))
        exchange(one, other)
        exchanged.append((one.exists(), other.exists()))

    monkeypatch.setattr(operations, "exchange", watched)
    stamp_file(lie.path, QWEN2, lie.output(), force=True)
    assert exchanged == [(True, True)] * is_offered
    assert {path.name for path in lie.path.parent.iterdir()} == names
    with open_checkpoint(lie.output()) as checkpoint:
        assert "qwen2" in {stamp.value for stamp in checkpoint.stamps}


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_replacement_cut_off_between_two_renames_leaves_one_of_both_directories(
    make_lie: Callable[[str], Lie],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    renames: int,
) -> None:
    """As a power cut leaves it: what is done after that many renames is never done, nor is anything cleaned up."""
    lie = make_lie("hf")
    stamp_file(lie.path, StampChanges(**QWEN2.identity, license="MIT"), lie.output())
    before = files_below(lie.output())
    done: list[Path] = []
    rename = operations.rename

    def not_offered(one: Path, other: Path) -> None:
        raise operations.NotOfferedError(errno.EINVAL, os.strerror(errno.EINVAL))

    def counted(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    def cut_off(directory: Path) -> None:
        if len(done) == renames == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(operations, "exchange", not_offered)
    monkeypatch.setattr(operations, "rename", counted)
    monkeypatch.setattr(operations, "sync_directory", cut_off)
    monkeypatch.setattr(recovery, "restore_directory", lambda path: False)
    with pytest.raises(KeyboardInterrupt):
        stamp_file(lie.path, StampChanges(**QWEN2.identity, license="ISC"), lie.output(), force=True)
    monkeypatch.undo()
    assert lie.output().exists() is (renames != 1)
    with pytest.raises(RefusedError, match="exists already"):
        check_output(lie.path, lie.output(), force=False)
    assert ("was taken back" in caplog.text) is (renames == 1)
    with caplog.at_level(logging.WARNING, logger="apr"), open_checkpoint(lie.output()) as checkpoint:
        assert text_stamp(checkpoint, "license") == ("ISC" if renames == 2 else "MIT")
    if renames < 2:
        assert files_below(lie.output()) == before
    monkeypatch.setattr(operations, "exchange", not_offered)
    stamp_file(lie.path, QWEN2, lie.output(), force=True)
    assert {path.name for path in lie.path.parent.iterdir()} == {lie.path.name, lie.output().name}


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("way", ["stamp", "export", "import", "atomic file"])
def test_who_replaces_a_file_removes_the_journal_of_the_old_one(
    honest_qwen2: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal and its copy would be taken for those of the new file."""
    from apr.convert.exporting import ExportFormat, export_checkpoint
    from apr.convert.importing import import_checkpoint
    from apr.formats.safetensors.write import write_safetensors
    from apr.storage.journal import aside_of, journal_of_file, new_beside

    other = import_checkpoint(honest_qwen2, tmp_path / "other.apr").output
    target = tmp_path / ("model.safetensors" if way in ("export", "atomic file") else "model.apr")
    target.write_bytes(b"half stamped")
    for left in (journal_of_file(target), new_beside(target), aside_of(target)):
        left.write_bytes(b"left by a stamp")
    if way == "stamp":
        stamp_file(other, QWEN2, target, force=True)
    elif way == "import":
        import_checkpoint(honest_qwen2, target, force=True)
    elif way == "export":
        export_checkpoint(other, target, format=ExportFormat.SAFETENSORS, force=True)
    else:
        write_safetensors(target, tensors=[], metadata={"format": "pt"})
    open_checkpoint(target).close()
    assert {path.name for path in tmp_path.iterdir()} == {"other.apr", target.name}


@pytest.mark.parametrize("container", ["apr", "hf"])
def test_a_stamp_in_progress_is_waited_for_before_its_file_is_replaced(
    make_lie: Callable[[str], Lie], container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr.storage import replacing
    from apr.storage.locking import lock_exclusive, lock_shared

    lie = make_lie(container)
    stamp_file(lie.path, QWEN2, lie.output())
    before = files_below(lie.path.parent)
    monkeypatch.setattr(replacing, "lock_shared", lambda descriptor, path: lock_shared(descriptor, path, 0.05))
    stamped = os.open(lie.output(), os.O_RDONLY)
    try:
        lock_exclusive(stamped, lie.output())
        with pytest.raises(InputOutputError, match="is being stamped by another process"):
            stamp_file(lie.path, StampChanges(**QWEN2.identity, license="MIT"), lie.output(), force=True)
    finally:
        os.close(stamped)
    assert files_below(lie.path.parent) == before
    with open_checkpoint(lie.output()):  # A reader is in nobody's way.
        stamp_file(lie.path, StampChanges(**QWEN2.identity, license="MIT"), lie.output(), force=True)


@pytest.mark.parametrize("container", ["apr", "hf"])
def test_a_copy_that_was_killed_is_cleared_away_by_the_next_one(
    make_lie: Callable[[str], Lie], container: str, caplog: pytest.LogCaptureFixture
) -> None:
    lie = make_lie(container)
    names = {path.name for path in lie.path.parent.iterdir()}
    child = os.fork()
    if child == 0:
        operations.resize = lambda *_: os._exit(9)  # type: ignore[assignment] - in this process alone
        try:
            stamp_file(lie.path, QWEN2, lie.output())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(lie.path.parent.iterdir())) == len(names) + 1
    with caplog.at_level(logging.WARNING, logger="apr"):
        stamp_file(lie.path, QWEN2, lie.output())
    assert caplog.messages == [f"what a process that was killed had written for {lie.output()} was removed"]
    assert {path.name for path in lie.path.parent.iterdir()} == names | {lie.output().name}
