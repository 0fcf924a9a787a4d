"""A vocabulary that was walked before is found again by its bytes, and never mistaken for another."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.formats.gguf import cursor as cursors
from apr.formats.gguf import walked
from apr.formats.gguf.cursor import Cursor
from apr.storage.reading import SourceFile

COUNT = walked.FEWEST_TEXTS + 7
TEXTS = [b"token %d" % number for number in range(COUNT)]


def packed(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


@pytest.fixture(autouse=True)
def nothing_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walked, "_spans", {})


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, bool]]:
    """Step over the texts in `data` at `position`; the bytes they take, and whether every text was looked at."""
    walks: list[int] = []
    original = Cursor._walk_texts

    def counted(cursor: Cursor, count: int, what: str) -> None:
        walks.append(count)
        original(cursor, count, what)

    monkeypatch.setattr(cursors.Cursor, "_walk_texts", counted)

    def start(data: bytes, position: int = 0, count: int = COUNT) -> tuple[int, bool]:
        walks.clear()
        path = tmp_path / "vocabulary"
        path.write_bytes(data)
        file = SourceFile(path)
        try:
            cursor = Cursor(file, position)
            cursor.skip_texts(count, "the vocabulary")
            return cursor.position - position, bool(walks)
        finally:
            file.close()

    return start


def test_the_same_texts_are_walked_once_wherever_they_stand(walk: Callable[..., tuple[int, bool]]) -> None:
    data = packed(TEXTS)
    assert walk(data) == (len(data), True)
    assert walk(data + b"more") == (len(data), False)
    assert walk(b"\0" * 100 + data, position=100) == (len(data), False)


@pytest.mark.parametrize("at", [0, COUNT // 2, COUNT - 1])
def test_one_other_text_is_walked_anew(walk: Callable[..., tuple[int, bool]], at: int) -> None:
    data = packed(TEXTS)
    walk(data)
    longer = packed([*TEXTS[:at], TEXTS[at] + b"!", *TEXTS[at + 1 :]])
    assert walk(longer + b"tail") == (len(longer), True)
    other = packed([*TEXTS[:at], TEXTS[at][:-1] + b"?", *TEXTS[at + 1 :]])
    assert walk(other) == (len(other), True)


def test_another_count_is_another_array(walk: Callable[..., tuple[int, bool]]) -> None:
    data = packed(TEXTS)
    walk(data)
    assert walk(data, count=COUNT - 1) == (len(packed(TEXTS[:-1])), True)


def test_a_file_cut_inside_the_array_is_still_refused(walk: Callable[..., tuple[int, bool]]) -> None:
    from apr.errors import DamagedFileError

    data = packed(TEXTS)
    walk(data)
    with pytest.raises(DamagedFileError, match="the vocabulary"):
        walk(data[:-1])


def test_small_arrays_and_arrays_on_other_machines_are_not_kept(
    walk: Callable[..., tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = packed(TEXTS[:100])
    walk(few, count=100)
    assert walked._spans == {}
    monkeypatch.setattr(SourceFile, "is_remote", True)
    walk(packed(TEXTS))
    assert walked._spans == {}
