"""Where a file system cannot make room inside a file, a cut-off stamp too leaves a checkpoint as before or as after."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.stamping.result import BY_COPY_NOTE
from apr.storage import copying, exchange, operations
from apr.storage.journal import aside_of, journal_of_directory, new_beside
from apr.storage.patches import FilePatch
from apr.storage.unchanged import file_id_at
from tests.stamping.conftest import QWEN2, files_below, stored_digests
from tests.stamping.replay import copied, cut_disks, recorded, replay

GROWN = StampChanges(license="Apache-2.0", data_source="x" * 9000)
CONTAINERS = ("apr", "safetensors", "gguf", "sharded")


def no_room(*_: object) -> None:
    raise operations.NoRoomError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def not_offered(*_: object) -> Any:
    raise operations.NotOfferedError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture(params=["exchanged", "renamed"])
def without_room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that makes no room, with and without an exchange of names in one step."""
    monkeypatch.setattr(operations, "insert_range", no_room)
    if request.param == "renamed":
        monkeypatch.setattr(operations, "exchange", not_offered)
    return str(request.param)


def make(container: str, folder: Path, lies: dict[str, Path], sharded: Path) -> Path:
    """A checkpoint in `folder` whose weight files are too narrow for `GROWN`."""
    source = sharded if container == "sharded" else lies[container]
    folder.mkdir()
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
        for shard in target.glob("model-*.safetensors"):
            _make_narrow(shard)
        return target
    shutil.copy(source, target)
    return target


def _make_narrow(shard: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_file(load_file(shard), shard, {"format": "pt", "license": "MIT", "data_source": "y"})


def changes(container: str) -> StampChanges:
    identity = {} if container == "sharded" else QWEN2.identity
    return StampChanges(license=GROWN.license, data_source=GROWN.data_source, **identity)


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.falsifies("FALSIFY-STAMP-ATOMIC-001")
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_prefix_of_the_writes_reads_as_before_or_as_after(
    without_room: str, container: str, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    path = make(container, tmp_path / "work", lies, sharded)
    original = copied(path.parent, tmp_path / "original")
    before, digests = files_below(path.parent), stored_digests(path)
    with recorded(path.parent) as steps:
        result = stamp_file(path, changes(container), in_place=True)
    after = files_below(path.parent)
    assert BY_COPY_NOTE in result.notes
    assert stored_digests(path) == digests
    assert {name for name in after if "apr-" in name} == set()
    operations_used = {step.operation for step in steps}
    assert ("exchange" in operations_used) == (without_room == "exchanged")
    seen = set()
    for number, disk in enumerate(cut_disks(steps)):
        folder = copied(original, tmp_path / "cut")
        replay(disk, folder)
        with open_checkpoint(folder / path.name) as checkpoint:
            assert checkpoint.tensors
        found = files_below(folder)
        assert found in (before, after), (number, [step[:2] for step in disk])
        seen.add(found == after)
    assert seen == {False, True}


def test_a_shard_that_is_opened_alone_while_it_has_no_name_gets_it_back(
    monkeypatch: pytest.MonkeyPatch,
    lies: dict[str, Path],
    sharded: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(operations, "insert_range", no_room)
    monkeypatch.setattr(operations, "exchange", not_offered)
    path = make("sharded", tmp_path / "work", lies, sharded)
    original = copied(path.parent, tmp_path / "original")
    with recorded(path.parent) as steps:
        stamp_file(path, changes("sharded"), in_place=True)
    after = files_below(path.parent)
    first = next(at for at, step in enumerate(steps) if step.operation == "rename")
    for length in (first + 1, first + 2, first + 3, first + 4):
        folder = copied(original, tmp_path / "cut")
        replay(steps[:length], folder)
        shard = folder / steps[first].path
        assert shard.exists() == (length > first + 2)
        assert aside_of(shard).exists()
        with caplog.at_level(logging.WARNING, logger="apr"):
            open_checkpoint(shard).close()
        assert files_below(folder) == after
    assert caplog.messages[-1].endswith("was finished")


def test_a_copy_that_is_gone_is_no_reason_to_lose_the_file(
    monkeypatch: pytest.MonkeyPatch, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(operations, "insert_range", no_room)
    path = make("apr", tmp_path / "work", lies, sharded)
    original = copied(path.parent, tmp_path / "original")
    before = files_below(original)
    with recorded(path.parent) as steps:
        stamp_file(path, changes("apr"), in_place=True)
    committed = next(at for at, step in enumerate(steps) if step.operation == "exchange")
    replay(steps[:committed], original)
    new_beside(original / path.name).unlink()
    open_checkpoint(original / path.name).close()
    assert files_below(original) == before


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("operation", ["copy_range", "sync", "exchange", "write"])
def test_a_copy_that_cannot_be_completed_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch, operation: str, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(operations, "insert_range", no_room)
    path = make("sharded", tmp_path / "work", lies, sharded)
    before = files_below(path.parent)
    original = getattr(operations, operation)
    calls = iter(range(100))
    fails_at = {"write": 4, "sync": 4}.get(operation, 1)

    def failing(*arguments: Any) -> Any:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(operations, operation, failing)
    with pytest.raises(Exception, match="No space left on device"):
        stamp_file(path, changes("sharded"), in_place=True)
    assert files_below(path.parent) == before


def test_mode_and_owner_go_to_the_copy(
    monkeypatch: pytest.MonkeyPatch, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(operations, "insert_range", no_room)
    path = make("apr", tmp_path / "work", lies, sharded)
    path.chmod(0o640)
    owner = 1234 if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)
    inode = path.stat().st_ino
    stamp_file(path, changes("apr"), in_place=True)
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o640, owner)
    assert status.st_ino != inode


def test_other_hard_links_keep_the_old_file_and_the_user_is_told(
    monkeypatch: pytest.MonkeyPatch, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(operations, "insert_range", no_room)
    path = make("apr", tmp_path / "work", lies, sharded)
    other = tmp_path / "other.apr"
    os.link(path, other)
    before = other.read_bytes()
    notes = stamp_file(path, changes("apr"), in_place=True).notes
    assert other.read_bytes() == before
    assert "1 other hard links to this file keep the old stamps" in notes
    assert not any("show it too" in note for note in notes)


def test_a_copy_is_locked_until_the_stamp_is_final(
    monkeypatch: pytest.MonkeyPatch, lies: dict[str, Path], sharded: Path, tmp_path: Path
) -> None:
    import fcntl

    monkeypatch.setattr(operations, "insert_range", no_room)
    path = make("apr", tmp_path / "work", lies, sharded)
    original = operations.exchange
    is_free = []

    def exchanged(one: Path, other: Path) -> None:
        original(one, other)
        with path.open("rb") as reader:
            try:
                fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free.append(False)
            else:
                is_free.append(True)

    monkeypatch.setattr(operations, "exchange", exchanged)
    stamp_file(path, changes("apr"), in_place=True)
    assert is_free == [False]
    open_checkpoint(path).close()


@pytest.mark.parametrize("way", ["shared", "kernel", "read and write"])
def test_each_way_of_copying_makes_the_same_bytes_and_keeps_holes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    from apr.storage.patches import FilePatch, Splice

    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(70_000) + bytes(1 << 20) + os.urandom(5_001)
    with source.open("wb") as file:
        file.write(data[:70_000])
        file.seek(70_000 + (1 << 20))
        file.write(data[70_000 + (1 << 20) :])

    def cloned(reading: int, writing: int, offset: int, size: int, target_offset: int) -> None:
        part = os.pread(reading, size or len(data), offset)
        os.pwrite(writing, part, target_offset)

    if way == "shared":
        monkeypatch.setattr(operations, "clone_range", cloned)
    elif way == "read and write":
        monkeypatch.setattr(operations, "copy_range", not_offered)
    told: list[int] = []
    patch = FilePatch("x", len(data), 65_536, 4096, (Splice(0, data[:4], 0, b"head"),))
    counted = copying.copy_file(source, target, patch, told.append)
    assert target.read_bytes() == b"head" + data[4:65_536] + bytes(4096) + data[65_536:]
    assert sum(told) == len(data)
    assert (counted == 0) == (way == "shared")
    if way != "shared":
        assert counted < len(data)
        assert target.stat().st_blocks * 512 < 200_000


def test_a_source_that_changes_its_size_is_not_copied(tmp_path: Path) -> None:
    from apr.errors import InputOutputError
    from apr.storage.patches import FilePatch

    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    for planned in (900, 1100):
        with pytest.raises(InputOutputError, match="changed its size"):
            copying.copy_file(source, tmp_path / f"target{planned}", FilePatch("x", planned, 0, 0, ()))


@pytest.fixture
def memory_disk() -> Path:
    """A folder on a file system in memory, which makes no room inside files; skipped where there is none."""
    disk = Path("/dev/shm")
    if not disk.is_dir() or not os.access(disk, os.W_OK):
        pytest.skip("no file system in memory")
    folder = disk / f"apr-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
def test_kills_on_a_real_file_system_without_room_leave_before_or_after(
    memory_disk: Path, lies: dict[str, Path], sharded: Path
) -> None:
    path = make("sharded", memory_disk / "work", lies, sharded)
    original = copied(path.parent, memory_disk / "original")
    before, digests = files_below(path.parent), stored_digests(path)
    stamp_file(path, changes("sharded"), in_place=True)
    seen = {"before": 0, "after": 0, "with a journal": 0}
    for number in range(40):
        work = copied(original, memory_disk / "work")
        child = os.fork()
        if child == 0:
            try:
                stamp_file(work / path.name, changes("sharded"), in_place=True)
            finally:
                os._exit(0)
        journal = journal_of_directory(work / path.name)
        deadline_s = time.monotonic() + 2
        while not journal.exists() and time.monotonic() < deadline_s:
            time.sleep(0.0001)
        time.sleep(number * 0.0001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen["with a journal"] += journal.exists()
        with open_checkpoint(work / path.name) as checkpoint:
            assert checkpoint.tensors
            licenses = {texts["license"] for texts in checkpoint.weight_metadata.values()}
        assert stored_digests(work / path.name) == digests
        found = files_below(work)
        assert licenses == ({"MIT"} if found == before else {"Apache-2.0"})
        assert not [name for name in found if name.rpartition("/")[2].startswith(".")]
        seen["before" if found == before else "after"] += 1
    assert seen["with a journal"] > 0


def test_an_exchange_that_was_cut_off_anywhere_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for state, expected in (
        ({"x": b"old", ".x.apr-new": b"longer"}, b"longer"),
        ({".x.apr-aside": b"old", ".x.apr-new": b"longer"}, b"longer"),
        ({".x.apr-aside": b"old", "x": b"longer"}, b"longer"),
        ({".x.apr-aside": b"longer", ".x.apr-new": b"old"}, b"longer"),
        ({".x.apr-aside": b"longer", "x": b"old"}, b"longer"),
    ):
        for name, data in state.items():
            (tmp_path / name).write_bytes(data)
        ids = {data: file_id_at(tmp_path / name) for name, data in state.items()}
        patch = FilePatch("x", 3, 0, 3, (), True, ids[b"old"], ids[b"longer"])
        exchange.put_in_place(tmp_path, patch, patch.copy, patch.source)
        assert path.read_bytes() == expected
        exchange.put_in_place(tmp_path, patch, patch.source, patch.copy)
        assert path.read_bytes() == b"old"
        assert new_beside(path).read_bytes() == b"longer"
        exchange.discard(tmp_path, patch)
        path.unlink()
        assert list(tmp_path.iterdir()) == []
