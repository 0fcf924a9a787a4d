"""Many checkpoints in one command: each found once, each told of, failures counted, what is right skipped."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.cli.main import run
from apr.errors import NotFoundError
from apr.stamping.fleet import Status, find_checkpoints, stamp_fleet
from tests.stamping.conftest import Lie, files_below

AUTO = ("--auto", "--hf-model-type", "qwen2")


@pytest.fixture
def fleet(lies: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of checkpoints of every container, one of them damaged, with other files between them."""
    folder = tmp_path / "fleet"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(3):
        shutil.copy(lies["apr-typed-only"], folder / f"{number}.apr")
    shutil.copy(lies["safetensors"], folder / "deep" / "lie.safetensors")
    shutil.copytree(lies["hf"], folder / "deep" / "er" / "model")
    (folder / "broken.apr").write_bytes(b"junk" * 30)
    (folder / "notes.txt").write_text("not a checkpoint")
    (folder / "again.apr").symlink_to("0.apr")
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict]]:
    capsys.readouterr()
    exit_code = run([*map(str, arguments), "--json"])
    return exit_code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_means_every_checkpoint_in_it_once(fleet: Path) -> None:
    found = {str(path.relative_to(fleet)) for path in find_checkpoints([str(fleet), str(fleet / "0.apr")])}
    assert found == {"0.apr", "1.apr", "2.apr", "broken.apr", "deep/lie.safetensors", "deep/er/model"}
    assert len(find_checkpoints([str(fleet / "[12].apr")])) == 2
    assert find_checkpoints([str(fleet / "notes.txt")]) == [fleet / "notes.txt"]
    for nothing in ("*.nothing", str(fleet / "none*")):
        with pytest.raises(NotFoundError):
            find_checkpoints([nothing])


def test_one_failure_does_not_stop_the_others_and_exits_5(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, lines = run_json(capsys, "stamp", fleet, *AUTO, "--in-place")
    assert exit_code == 5
    assert lines[-1] == {
        "schema": "apr.stamp-summary/1",
        "checkpoints": 6,
        "stamped": 5,
        "right_already": 0,
        "would_stamp": 0,
        "failed": 1,
    }
    failed = [line for line in lines if line.get("status") == "failed"]
    assert [line["path"] for line in failed] == [str(fleet / "broken.apr")]
    assert failed[0]["error"]["exit_code"] == 4
    (fleet / "broken.apr").unlink()
    before = files_below(fleet)
    exit_code, lines = run_json(capsys, "stamp", fleet, *AUTO, "--in-place")
    assert exit_code == 0
    assert lines[-1]["right_already"] == 5
    assert files_below(fleet) == before


def test_paths_come_on_stdin_and_a_line_tells_of_each(
    fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{fleet / '0.apr'}\n{fleet / '1.apr'}\n\n"))
    assert run(["stamp", "-", *AUTO, "--in-place", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split("  ")[0] for line in lines[:2]) == ["would stamp", "would stamp"]
    assert lines[-1] == "2 checkpoints: 2 would stamp"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["stamp", "-", *AUTO, "--in-place"]) == 2


def test_many_checkpoints_have_no_single_output(fleet: Path) -> None:
    assert run(["stamp", str(fleet / "0.apr"), str(fleet / "1.apr"), "--auto", "-o", str(fleet / "out")]) == 2


def test_a_worker_that_dies_is_a_failure_and_not_a_hang(fleet: Path) -> None:
    def die(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    paths = [fleet / "0.apr", fleet / "1.apr"]
    outcomes = list(stamp_fleet(paths, die, lambda result: {}, worker_count=2))  # type: ignore[arg-type]
    assert [outcome.status for outcome in outcomes] == [Status.FAILED] * 2
    assert "killed" in outcomes[0].answer["message"]


def test_two_stamps_at_once_both_stand_in_the_history(make_lie: Callable[[str], Lie]) -> None:
    """Concurrent stampers exclude each other, and neither overwrites what the other wrote."""
    from apr.formats.registry import open_checkpoint
    from apr.stamping.changes import StampChanges
    from apr.stamping.patch import stamp_file

    lie = make_lie("apr")
    stamp_file(lie.path, lie.repair, in_place=True)
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                stamp_file(lie.path, StampChanges(settings={f"key{number}": number}), in_place=True)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
    with open_checkpoint(lie.path) as checkpoint:
        assert {checkpoint.metadata[f"key{number}"] for number in range(6)} == set(range(6))
        assert sum(entry["action"] == "stamp" for entry in checkpoint.recorded.history) == 7
        assert checkpoint.verify_checksums() == ()


def test_a_checkpoint_that_is_open_elsewhere_is_not_changed_and_the_user_is_told(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr.errors import InputOutputError
    from apr.formats.registry import open_checkpoint
    from apr.stamping.patch import stamp_file
    from apr.storage import locking

    lie = make_lie("safetensors")
    before = lie.path.read_bytes()
    monkeypatch.setattr(locking.lock_exclusive, "__defaults__", (0.05,))
    with open_checkpoint(lie.path) as reader:
        with pytest.raises(InputOutputError, match="open in another process") as caught:
            stamp_file(lie.path, lie.repair, in_place=True)
        assert "-o OUT" in str(caught.value.remedy)
        assert lie.path.read_bytes() == before
        first = next(iter(reader.tensors.values()))
        assert first.read_bytes()
    stamp_file(lie.path, lie.repair, in_place=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_fleet_that_was_ended(
    lies: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    """Neither idle ones nor busy ones; what one was stamping is whole, with no journal beside it."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    for at in range(300):
        shutil.copy(lies["safetensors"], folder / f"{at}.safetensors")
    command = [sys.executable, "-m", "apr", "stamp", str(folder), *AUTO, "--in-place", "--jobs", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        workers = children_of(process.pid)
        process.send_signal(number)
        messages = process.stderr.read()
        code = process.wait(timeout=30)
    assert len(workers) == 3
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in messages
    deadline_s = time.monotonic() + 20
    while (left := [worker for worker in workers if is_running(worker)]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert left == []
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def children_of(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task")
    return [int(each) for task in tasks.iterdir() for each in (task / "children").read_text().split()]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
