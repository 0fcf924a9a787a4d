"""Reading by position: bounds first, every kind of path, and the same open file from check to load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apr.errors import DamagedFileError, InputOutputError, NotFoundError
from apr.storage.reading import SourceFile


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(100)))
    return SourceFile(path)


def test_reads_exactly_what_is_asked_for(source: SourceFile) -> None:
    assert source.read_at(10, 5) == bytes(range(10, 15))
    assert source.read_at(100, 0) == b""
    target = bytearray(3)
    source.read_into(97, memoryview(target))
    assert target == bytes((97, 98, 99))


def test_streams_the_extent_in_order(source: SourceFile) -> None:
    assert b"".join(bytes(view) for view in source.stream(5, 90, 7)) == bytes(range(5, 95))
    assert list(source.stream(5, 0, 7)) == []


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (100, 1), (101, 0), (-1, 1), (0, 1 << 63), (1 << 70, 1)])
def test_an_extent_outside_the_file_is_refused_before_it_is_read(source: SourceFile, offset: int, size: int) -> None:
    with pytest.raises(DamagedFileError, match="outside the file") as caught:
        source.read_at(offset, size, "the metadata")
    assert str(source.path) in str(caught.value.where)
    assert caught.value.found == "a file of 100 bytes"


def test_a_file_that_shrank_is_reported(source: SourceFile) -> None:
    os.truncate(source.path, 50)
    with pytest.raises(DamagedFileError, match="shrank while the tensors was read") as caught:
        source.read_at(40, 20, "the tensors")
    assert caught.value.found == "50 bytes"


def test_a_replaced_path_does_not_mix_two_files(source: SourceFile) -> None:
    other = source.path.with_name("other")
    other.write_bytes(b"\xff" * 100)
    os.replace(other, source.path)
    assert source.read_at(0, 3) == b"\0\1\2"


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-003")
def test_missing_paths_carry_the_id_of_the_gate(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "none", tmp_path / "file" / "below", tmp_path / "link"):
        with pytest.raises(NotFoundError) as caught:
            SourceFile(path)
        assert caught.value.invariant == "FALSIFY-APR-PRETRAIN-INIT-003"
        assert caught.value.where == str(path)
    assert caught.value.found == "a link to nowhere"


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a directory"), (Path("/dev/zero"), "a char")):
        with pytest.raises(DamagedFileError, match="not a regular file") as caught:
            SourceFile(path)
        assert str(caught.value.found).startswith(kind)


def test_a_path_with_a_zero_byte_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="zero byte"):
        SourceFile(tmp_path / "a\0b")


def test_a_file_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputOutputError, match="Permission denied") as caught:
        SourceFile(tmp_path / "x")
    assert (caught.value.where, caught.value.exit_code) == (str(tmp_path / "x"), 7)


def test_a_failing_disk_is_reported(source: SourceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(os, "preadv", fail)
    for read in (lambda: source.read_at(0, 5, "the header"), lambda: source.read_into(0, memoryview(bytearray(5)))):
        with pytest.raises(InputOutputError, match="Input/output error"):
            read()


def test_a_closed_file_says_so(source: SourceFile) -> None:
    source.close()
    source.close()
    with pytest.raises(InputOutputError, match="Bad file descriptor"):
        source.read_at(0, 1)
