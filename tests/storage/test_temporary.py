"""What a killed process was writing is cleared away by the next one for the same target, and nothing else is."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apr.storage.temporary import SUFFIX, temporary_directory

WRITER = """
import sys, time
from pathlib import Path
from apr.storage.temporary import temporary_directory
with temporary_directory(Path(sys.argv[1])) as directory:
    (directory / "half").write_bytes(b"x")
    print(directory, flush=True)
    time.sleep(60)
"""


def writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    return process


def test_nothing_is_left_and_what_was_renamed_away_stays(tmp_path: Path) -> None:
    with temporary_directory(tmp_path / "out") as directory:
        assert directory.parent == tmp_path
        (directory / "left").write_bytes(b"x")
        (directory / "kept").write_bytes(b"y")
        os.rename(directory / "kept", tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_the_next_one_clears_away_what_a_killed_one_left_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "out"
    with writer(target) as process:
        with caplog.at_level(logging.WARNING, logger="apr"), temporary_directory(target):
            assert len(os.listdir(tmp_path)) == 2
        assert caplog.messages == []
        process.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    with temporary_directory(tmp_path / "out2"), temporary_directory(tmp_path / "ou"):
        pass
    assert len(os.listdir(tmp_path)) == 1
    with caplog.at_level(logging.WARNING, logger="apr"), temporary_directory(target):
        pass
    assert os.listdir(tmp_path) == []
    assert caplog.messages == [f"what a process that was killed had written for {target} was removed"]


def test_files_of_others_with_such_names_stay(tmp_path: Path) -> None:
    names = [f".out.notes{SUFFIX}", f".out.0123456789ab{SUFFIX}", f".out.0123456789ac{SUFFIX}"]
    (tmp_path / names[0]).mkdir()
    (tmp_path / names[1]).write_bytes(b"a file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / names[2]).symlink_to("elsewhere")
    with temporary_directory(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "elsewhere"])


def test_without_locks_nothing_of_others_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    left = tmp_path / f".out.0123456789ab{SUFFIX}"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with temporary_directory(tmp_path / "out"):
        assert left.exists()
    assert os.listdir(tmp_path) == [left.name]


def test_the_longest_names_have_room(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    with writer(target) as process:
        process.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    with temporary_directory(tmp_path / ("n" * 254 + "m")):
        pass
    assert len(os.listdir(tmp_path)) == 1
    with temporary_directory(target):
        pass
    assert os.listdir(tmp_path) == []
