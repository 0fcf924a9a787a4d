"""What stands in the place of a journal may be anything: it hangs nobody, leads nowhere, changes what stamps change."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.errors import DamagedFileError
from apr.formats.hf.read import CONFIG_FILE_NAME
from apr.formats.recorded import RECORDED_FILE_NAME
from apr.formats.registry import open_checkpoint
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES
from apr.storage import fitting
from apr.storage.checksums import crc32
from apr.storage.journal import MAGIC, decode_journal, encode_journal, journal_of_directory, journal_of_file
from apr.storage.patches import Change, FilePatch, Replacement, Splice
from tests.stamping.conftest import Lie, files_below

MakeLie = Callable[[str], Lie]


def journal_of(lie: Lie) -> Path:
    return journal_of_directory(lie.path) if lie.path.is_dir() else journal_of_file(lie.path)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_endless_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_link_that_leads_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # The address of a socket is short.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def make_endless_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("container", ["apr", "hf"])
@pytest.mark.parametrize(
    "make",
    [
        make_pipe,
        make_endless_link,
        make_link_that_leads_nowhere,
        make_directory,
        make_socket,
        make_endless_file,
    ],
)
@pytest.mark.timeout(60, func_only=True)
def test_what_is_no_journal_is_refused_at_once_and_named(
    make_lie: MakeLie, container: str, make: Callable[[Path], None]
) -> None:
    lie = make_lie(container)
    make(journal_of(lie))
    with pytest.raises(DamagedFileError, match="does not fit") as caught:
        open_checkpoint(lie.path)
    assert str(journal_of(lie)) in str(caught.value.remedy)


@pytest.mark.parametrize(
    "change",
    [
        Change((), (Replacement("train.py", None, b"planted"),)),
        Change((), (Replacement(".bashrc", None, b"planted"),)),
        Change((), (Replacement("model.safetensors.index.json", None, b"{}"),)),
        Change((FilePatch("train.sh", 4, 0, 0, (Splice(0, b"echo", 0, b"evil"),)),)),
        Change((FilePatch("model.safetensors", 100, 0, 0, (Splice(0, b"a", 0, b"ab"),)),)),
    ],
)
def test_a_journal_that_came_with_a_download_writes_no_other_files(make_lie: MakeLie, change: Change) -> None:
    lie = make_lie("hf")
    (lie.path / "train.sh").write_bytes(b"echo")
    journal_of(lie).write_bytes(encode_journal(change))
    before = files_below(lie.path)
    with pytest.raises(DamagedFileError, match="does not fit"):
        open_checkpoint(lie.path)
    assert files_below(lie.path) == before


def test_a_shard_of_another_name_may_be_named_where_the_index_names_it(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"echo")
    change = Change((FilePatch("weights.bin", 4, 0, 0, (Splice(0, b"echo", 0, b"once"),)),))
    with pytest.raises(DamagedFileError):
        fitting.check_may_name(tmp_path / ".apr-journal", change, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "weights.bin"}}')
    fitting.check_may_name(tmp_path / ".apr-journal", change, tmp_path)


def test_the_small_files_are_those_that_stamps_write() -> None:
    assert {CONFIG_FILE_NAME, RECORDED_FILE_NAME, *TOKENIZER_FILE_NAMES} == fitting.SMALL_FILE_NAMES


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes privileges")
def test_a_journal_of_another_user_is_not_carried_out(make_lie: MakeLie) -> None:
    lie = make_lie("hf")
    journal = journal_of(lie)
    journal.write_bytes(encode_journal(Change((), (Replacement("apr.json", None, b"{}"),))))
    os.chown(journal, 1234, -1)
    with pytest.raises(DamagedFileError, match="does not fit") as caught:
        open_checkpoint(lie.path)
    assert caught.value.found == "one of user 1234"
    os.chown(lie.path, 1234, -1)
    journal.write_bytes(b"")
    open_checkpoint(lie.path).close()
    assert not journal.exists()


@pytest.mark.timeout(60, func_only=True)
def test_inspect_does_not_wait_for_a_pipe(make_lie: MakeLie) -> None:
    lie = make_lie("safetensors")
    make_pipe(journal_of(lie))
    command = [sys.executable, "-m", "apr", "inspect", str(lie.path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == 4
    assert "a pipe, directory or device" in answer.stderr


@pytest.mark.parametrize(
    "description",
    [
        b"[]",
        b"{}",
        b'{"patches": 1, "replacements": []}',
        b'{"patches": [["a", "x", 0, 0, [], true]], "replacements": []}',
        b'{"patches": [[["a"], 1, 0, 0, [], true]], "replacements": []}',
        b'{"patches": [["a", 1, 0, 1e999, [], true]], "replacements": []}',
        b'{"patches": [["a", 1, 0, 0, [], true]], "replacements": [], "files": []}',
        b'{"patches": [["a", 1, 0, 0, [], true]], "replacements": [], "files": {"a": [[1], null]}}',
        b'{"patches": [], "replacements": [["apr.json", null, 99]]}',
        b"[" * 100_000,
    ],
)
def test_a_description_that_says_nothing_is_that_of_no_change(description: bytes) -> None:
    body = MAGIC + len(description).to_bytes(8, "little") + description
    assert decode_journal(body + crc32(body).to_bytes(4, "little")) is None
