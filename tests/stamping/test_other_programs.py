"""Programs that know no lock and no journal write the same files: what they wrote is kept, before, during and after."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from apr.errors import DamagedFileError, RefusedError
from apr.formats.registry import open_checkpoint
from apr.stamping import in_place
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.storage import exchange, inplace, operations
from apr.storage.inplace import FileChangedError
from apr.storage.journal import decode_journal, encode_journal, journal_of_directory, journal_of_file, new_beside
from apr.storage.patches import FilePatch
from tests.stamping.conftest import QWEN2, Lie, files_below

MIT = StampChanges(license="MIT")
SIZE = 4096


class Killed(BaseException):
    """As SIGKILL: nothing that would clean up may run after it."""


@pytest.fixture(params=["room", "exchange", "renames"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that makes room, one that exchanges names, and one that only renames."""

    def refused(kind: type[OSError]) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            raise kind(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        return refuse

    if request.param != "room":
        monkeypatch.setattr(operations, "insert_range", refused(operations.NoRoomError))
    if request.param == "renames":
        monkeypatch.setattr(operations, "exchange", refused(operations.NotOfferedError))
    return str(request.param)


def save(path: Path, value: float, *, is_replaced: bool = True, format_: str = "pt") -> None:
    """As a training run saves: as a new file that takes the name, or over the bytes of the old one."""
    beside = path.with_name("being-saved")
    save_file({"w": np.full(SIZE, value, "f4")}, beside, {"format": format_})
    if is_replaced:
        os.replace(beside, path)
    else:
        path.write_bytes(beside.read_bytes())
        beside.unlink()


def interrupted(path: Path, operation: str, at: int = 1, changes: StampChanges = MIT) -> None:
    """A stamp of `path` that is killed as it comes to call number `at` of `operation`."""
    child = os.fork()
    if child == 0:
        original, calls = getattr(operations, operation), iter(range(1, 10_000))

        def killed(*arguments: Any) -> Any:
            if next(calls) == at:
                os._exit(9)
            return original(*arguments)

        setattr(operations, operation, killed)
        try:
            stamp_file(path, changes, in_place=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


INSTANTS = {
    "room": [("insert_range", 1), ("write", 2), ("remove", 1)],
    "exchange": [("exchange", 1), ("remove", 3), ("remove", 4)],
    "renames": [("rename", 1), ("rename", 2), ("rename", 3), ("remove", 3), ("remove", 4)],
}


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "overwritten"])
@pytest.mark.parametrize("new_value", [0.0, 1.0], ids=["the same values", "other values"])
def test_weights_saved_after_a_cut_off_stamp_are_never_given_up_for_the_old_ones(
    disk: str, is_replaced: bool, new_value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for operation, at in INSTANTS[disk]:
        folder = tmp_path / f"{operation}{at}"
        folder.mkdir()
        path = folder / "model.safetensors"
        save(path, 0.0)
        interrupted(path, operation, at)
        save(path, new_value, is_replaced=is_replaced)
        saved = path.read_bytes()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="apr"), open_checkpoint(path) as checkpoint:
            assert checkpoint.tensors
        assert (load_file(path)["w"] == new_value).all(), (operation, at)
        assert [each.name for each in folder.iterdir()] == [path.name]
        assert len(caplog.messages) == 1
        if disk != "room":
            assert path.read_bytes() == saved
            assert "was kept as it is" in caplog.text


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("disk", ["exchange", "renames"], indirect=True)
def test_weights_saved_while_the_copy_is_made_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    copy = exchange.copy_patched
    for is_replaced in (True, False):
        save(path, 0.0)

        def copied(*arguments: Any, is_replaced: bool = is_replaced) -> int:
            count = copy(*arguments)
            save(path, 1.0, is_replaced=is_replaced)
            return count

        monkeypatch.setattr(exchange, "copy_patched", copied)
        with pytest.raises(FileChangedError, match="changed while it was being stamped"):
            stamp_file(path, MIT, in_place=True)
        assert (load_file(path)["w"] == 1.0).all()
        assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
@pytest.mark.parametrize("instant", ["just before it is carried out", "just before it is checked", "after the check"])
def test_weights_that_take_the_name_during_the_stamp_are_kept_and_then_stamped(
    disk: str, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, 0.0)
    owner, name = {
        "just before it is carried out": (inplace, "carry_out"),
        "just before it is checked": (in_place, "open_checkpoint"),
        "after the check": (inplace, "_check_in_place"),
    }[instant]
    original = getattr(owner, name)
    calls = iter([True])

    def replaced(*arguments: Any) -> Any:
        if next(calls, False):
            save(path, 1.0)
        return original(*arguments)

    monkeypatch.setattr(owner, name, replaced)
    result = stamp_file(path, MIT, in_place=True)
    assert (load_file(path)["w"] == 1.0).all()
    with safe_open(path, "np") as file:
        assert file.metadata()["license"] == "MIT"
    assert any(finding.id == "INV-STAMP-BYTES-001" for finding in result.findings)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_exchange_of_another_file_is_exchanged_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the look and the exchange, once and once more."""
    original = operations.exchange
    for times in (1, 2):
        path, beside = tmp_path / "x", new_beside(tmp_path / "x")
        path.write_bytes(b"old")
        beside.write_bytes(b"longer")
        ids = exchange.file_id_at(path), exchange.file_id_at(beside)
        calls = iter(range(times))

        def exchanged(one: Path, other: Path, calls: Any = calls, path: Path = path) -> None:
            number = next(calls, None)
            if number is not None:
                (tmp_path / "saved").write_bytes(b"saved %d" % number)
                os.replace(tmp_path / "saved", path)
            original(one, other)

        monkeypatch.setattr(operations, "exchange", exchanged)
        with pytest.raises(FileChangedError):
            exchange.put_in_place(tmp_path, FilePatch("x", 3, 0, 3, (), True, *ids), ids[1], ids[0])
        assert path.read_bytes() == b"saved %d" % (times - 1)


def test_a_stamp_without_its_entry_in_the_history_is_no_stamp(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    from apr.stamping import result

    before = files_below(lie.path.parent)
    seen = iter("ab")
    monkeypatch.setattr(result, "_text", lambda _: next(seen))
    with pytest.raises(RefusedError, match="newest entry of the history"):
        stamp_file(lie.path, lie.repair, in_place=True)
    assert files_below(lie.path.parent) == before


def test_a_stamp_of_the_same_headers_touches_no_weight_of_a_file_that_replaced_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that is not by copy writes nothing but the header it names, and that is the same in both files."""
    path = tmp_path / "model.safetensors"
    save(path, 0.0)
    interrupted(path, "insert_range")
    save(path, 1.0)
    journal = decode_journal(journal_of_file(path).read_bytes())
    assert journal is not None
    header_bytes = path.stat().st_size - 4 * SIZE
    assert all(splice.old_offset_bytes + len(splice.old) <= header_bytes for splice in journal.patches[0].splices)
    open_checkpoint(path).close()
    assert (load_file(path)["w"] == 1.0).all()
    with safe_open(path, "np") as file:
        assert file.metadata()["license"] == "MIT"


def test_a_journal_of_a_file_that_is_gone_does_not_make_the_new_one_unreadable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, 0.0)
    interrupted(path, "write", 2)
    save(path, 1.0, format_="another")
    saved = path.read_bytes()
    with caplog.at_level(logging.WARNING, logger="apr"):
        open_checkpoint(path).close()
    assert "was dropped: model.safetensors" in caplog.text
    assert path.read_bytes() == saved
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_journal_of_the_same_file_whose_bytes_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, 0.0)
    interrupted(path, "insert_range")
    save(path, 1.0, is_replaced=False, format_="another")
    with pytest.raises(DamagedFileError, match="does not fit"):
        open_checkpoint(path)


@pytest.mark.parametrize("instant", [("exchange", 1), ("remove", 3)], ids=["not exchanged", "exchanged"])
def test_a_journal_of_an_earlier_version_exchanges_nothing(
    instant: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say which files it is about; the file is whole in each state, so that it may stay as it stands."""

    def no_room(*_: object) -> None:
        raise operations.NoRoomError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(operations, "insert_range", no_room)
    path = tmp_path / "model.safetensors"
    save(path, 0.0)
    interrupted(path, *instant)
    journal = journal_of_file(path)
    change = decode_journal(journal.read_bytes())
    assert change is not None
    old_form = change._replace(patches=tuple(patch._replace(source=None, copy=None) for patch in change.patches))
    data = encode_journal(old_form)
    assert b'"files": {}' in data
    journal.write_bytes(data)
    before = path.read_bytes()
    open_checkpoint(path).close()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_in_a_directory_files_of_others_stay_and_the_rest_is_taken_back(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_: object) -> None:
        raise operations.NoRoomError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(operations, "insert_range", no_room)
    path = tmp_path / "model"
    shutil.copytree(sharded, path)
    for shard in path.glob("*.safetensors"):  # Narrow, so that each has to grow.
        save_file(load_file(shard), shard, {"format": "pt", "data_source": "x"})
    before = files_below(path)
    for operation, at in (("exchange", 2), ("rename", 1), ("rename", 2)):
        work = tmp_path / f"{operation}{at}"
        shutil.copytree(path, work)
        interrupted(work, operation, at, StampChanges(data_source="x" * 9000, settings={"note": "x"}))
        assert journal_of_directory(work).exists()
        second = work / "model-00002-of-00002.safetensors"
        tensors = {name: value + 1 for name, value in load_file(second).items()}
        save_file(tensors, work / "saved", {"format": "pt", "data_source": "x"})
        os.replace(work / "saved", second)
        saved = second.read_bytes()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="apr"):
            open_checkpoint(work).close()
        assert "was dropped: model-00002-of-00002.safetensors" in caplog.text
        assert files_below(work) == {**before, second.name: saved}


def test_a_config_written_after_a_cut_off_stamp_is_kept(
    make_lie: Callable[[str], Lie], caplog: pytest.LogCaptureFixture
) -> None:
    path = make_lie("hf").path
    before = files_below(path)
    interrupted(path, "rename", 1, QWEN2)
    config = path / "config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    with caplog.at_level(logging.WARNING, logger="apr"):
        open_checkpoint(path).close()
    after = files_below(path)
    assert after == {**before, "config.json": before["config.json"] + b"\n"}
    assert "was dropped: config.json" in caplog.text


def test_a_directory_of_links_into_a_cache_is_stamped_at_once(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    """As a hub cache lays it out: every file a link to `../blobs`; the blobs stay as they are."""
    source = make_lie("hf").path
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshot"
    blobs.mkdir(parents=True)
    snapshot.mkdir()
    for file in source.iterdir():
        shutil.move(file, blobs / f"digest-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../blobs/digest-of-{file.name}")
    before = files_below(blobs)
    stamp_file(snapshot, StampChanges(hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2"), in_place=True)
    assert files_below(blobs) == before
    assert not (snapshot / "config.json").is_symlink()
    assert (snapshot / "model.safetensors").is_symlink()
    with open_checkpoint(snapshot) as checkpoint:
        assert (checkpoint.config or {})["model_type"] == "qwen2"


def test_other_hard_links_are_whole_at_every_instant_and_may_be_stamped_first(disk: str, tmp_path: Path) -> None:
    """They do not know the journal, which stands beside the name by which the file was stamped."""
    names = [("rename", 1), ("rename", 2), ("rename", 3)] if disk == "renames" else [("exchange", 1)]
    for operation, at in (("copy_range", 1), *names, ("remove", 2), ("remove", 3)):
        folder = tmp_path / f"{operation}{at}"
        folder.mkdir()
        path, other = folder / "model.safetensors", folder / "other.safetensors"
        save(path, 0.0)
        os.link(path, other)
        before = other.read_bytes()
        interrupted(path, operation, at)
        assert other.read_bytes() == before
        result = stamp_file(other, StampChanges(license="ISC"), in_place=True)
        assert result.output == other
        open_checkpoint(path).close()
        for name, licenses in ((path, {"MIT", None}), (other, {"ISC"})):
            with safe_open(name, "np") as file:
                assert file.metadata().get("license") in licenses
            assert (load_file(name)["w"] == 0.0).all()
        assert {each.name for each in folder.iterdir()} == {path.name, other.name}
