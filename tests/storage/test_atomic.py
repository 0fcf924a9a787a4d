"""An output appears whole or not at all: on exceptions, on interrupts, on a full disk, on kill -9."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from apr.errors import InputOutputError, NotFoundError, RefusedError
from apr.storage.atomic import atomic_directory, atomic_file


def names_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def write_half_then_raise(target: Path, error: BaseException) -> None:
    with atomic_file(target) as file:
        file.write(b"half")
        raise error


def fill_then_raise(target: Path, error: BaseException) -> None:
    with atomic_directory(target) as directory:
        write_files(directory, a=1)
        raise error


def write_zeros(target: Path, size_bytes: int) -> None:
    with atomic_file(target) as file:
        for _ in range(size_bytes // 4000):
            file.write(bytes(4000))


def write_files(directory: Path, **sizes_bytes: int) -> None:
    directory.mkdir(exist_ok=True)
    for name, size_bytes in sizes_bytes.items():
        (directory / name).write_bytes(bytes(size_bytes))


@pytest.fixture(params=["unnamed", "named"])
def temporary_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with both ways of keeping the file out of sight while it is written."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


@pytest.mark.usefixtures("temporary_kind")
class TestFile:
    def test_appears_at_the_end_with_all_bytes(self, tmp_path: Path) -> None:
        target = tmp_path / "out.bin"
        with atomic_file(target) as file:
            file.write(b"some ")
            assert not target.exists()
            file.write(b"bytes")
        assert target.read_bytes() == b"some bytes"
        assert names_in(tmp_path) == ["out.bin"]

    def test_replaces_the_old_file_only_at_the_end(self, tmp_path: Path) -> None:
        target = tmp_path / "out.bin"
        target.write_bytes(b"old")
        with atomic_file(target) as file:
            file.write(b"new")
            file.flush()
            assert target.read_bytes() == b"old"
        assert target.read_bytes() == b"new"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
    def test_an_exception_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        target = tmp_path / "out.bin"
        target.write_bytes(b"old")
        with pytest.raises(error):
            write_half_then_raise(target, error())
        assert target.read_bytes() == b"old"
        assert names_in(tmp_path) == ["out.bin"]

    @pytest.mark.parametrize(
        ("number", "advice"),
        [
            (errno.ENOSPC, "free space"),
            (errno.EDQUOT, "quota"),
            (errno.EROFS, "read-only"),
            (errno.EACCES, "permission"),
            (errno.EIO, "state of the disk"),
        ],
    )
    def test_a_refusal_of_the_system_names_path_and_way_out(self, tmp_path: Path, number: int, advice: str) -> None:
        target = tmp_path / "out.bin"
        with pytest.raises(InputOutputError) as caught:
            write_half_then_raise(target, OSError(number, os.strerror(number)))
        assert str(target) in str(caught.value)
        assert advice in str(caught.value.remedy)
        assert caught.value.exit_code == 7
        assert names_in(tmp_path) == []

    def test_a_missing_directory_is_named_with_the_command_that_makes_it(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="does not exist") as caught, atomic_file(tmp_path / "no" / "x"):
            pytest.fail("the block must not run")
        assert caught.value.remedy == f"create it first: mkdir -p {tmp_path / 'no'}"

    def test_a_directory_in_the_way_is_refused_and_kept(self, tmp_path: Path) -> None:
        (tmp_path / "out" / "inner").mkdir(parents=True)
        with pytest.raises(InputOutputError, match="directory"), atomic_file(tmp_path / "out") as file:
            file.write(b"x")
        assert names_in(tmp_path) == ["out"]

    def test_the_mode_follows_the_umask(self, tmp_path: Path) -> None:
        old = os.umask(0o027)
        try:
            with atomic_file(tmp_path / "x") as file:
                file.write(b"x")
        finally:
            os.umask(old)
        assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640

    def test_a_private_file_stays_private_when_it_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"old")
        (tmp_path / "x").chmod(0o600)
        with atomic_file(tmp_path / "x") as file:
            file.write(b"new")
        assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600

    def test_a_name_of_255_bytes_can_be_written(self, tmp_path: Path) -> None:
        target = tmp_path / ("é" * 127)
        with atomic_file(target) as file:
            file.write(b"x")
        assert target.read_bytes() == b"x"


class TestDirectory:
    def test_appears_at_the_end_with_all_files(self, tmp_path: Path) -> None:
        with atomic_directory(tmp_path / "out") as directory:
            (directory / "a").write_bytes(b"1")
            (directory / "sub").mkdir()
            (directory / "sub" / "b").write_bytes(b"2")
            assert not (tmp_path / "out").exists()
        assert (tmp_path / "out" / "sub" / "b").read_bytes() == b"2"
        assert names_in(tmp_path) == ["out"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_exception_leaves_nothing(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error):
            fill_then_raise(tmp_path / "out", error())
        assert names_in(tmp_path) == []

    def test_an_existing_target_is_refused_and_kept(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_bytes(b"1")
        with pytest.raises(RefusedError, match="exists already"), atomic_directory(tmp_path / "out"):
            pytest.fail("the block must not run")
        assert names_in(tmp_path / "out") == ["mine"]

    def test_a_target_that_appears_meanwhile_is_kept(self, tmp_path: Path) -> None:
        with pytest.raises(RefusedError, match="while it was written"), atomic_directory(tmp_path / "out"):
            write_files(tmp_path / "out", mine=1)
        assert names_in(tmp_path) == ["out"]
        assert names_in(tmp_path / "out") == ["mine"]


WRITER = """
import sys, time
from pathlib import Path
from apr.storage.atomic import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"x" * 100_000)
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"old"
    assert all(name.startswith(".") for name in names_in(tmp_path) if name != "out.bin")


def test_a_file_over_the_size_limit_of_the_process_is_reported_and_removed(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from apr.errors import InputOutputError
        from apr.storage.atomic import atomic_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            with atomic_file(Path(sys.argv[1])) as file:
                for _ in range(100):
                    file.write(bytes(4096))
        except InputOutputError as error:
            print(error)
    """)
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out.bin"], capture_output=True, text=True, check=True
    )
    assert "File too large" in answer.stdout
    assert names_in(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; needs the right to mount."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if answer.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {answer.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_is_reported_and_nothing_is_left(small_disk: Path) -> None:
    with pytest.raises(InputOutputError, match="No space left on device") as caught:
        write_zeros(small_disk / "out.bin", 400_000)
    assert str(small_disk / "out.bin") in str(caught.value)
    assert names_in(small_disk) == []


def test_a_full_disk_stops_a_directory_and_nothing_is_left(small_disk: Path) -> None:
    with (
        pytest.raises(InputOutputError, match="No space left on device"),
        atomic_directory(small_disk / "out") as directory,
    ):
        write_files(directory, a=10_000, b=400_000)
    assert names_in(small_disk) == []
