"""Whatever legal header a safetensors file has, other texts in it leave every tensor byte where and as it was."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from apr.errors import RefusedError
from apr.formats.safetensors.edit import plan_metadata_patch
from apr.storage.copying import copy_patched
from apr.storage.inplace import change_in_place
from apr.storage.operations import NoRoomError
from apr.storage.patches import Change, FilePatch, Splice, by_copy, check_plan
from apr.storage.reading import SourceFile

DATA = bytes(range(256)) * 16
COUNT = 2


def header(position: int | None, padding_bytes: int, texts: dict[str, str], *, is_spaced: bool) -> bytes:
    """A header with the `__metadata__` as entry number `position`, or none."""
    size = len(DATA) // COUNT
    entries: list[tuple[str, object]] = [
        (f"t{at}", {"dtype": "U8", "shape": [size], "data_offsets": [at * size, (at + 1) * size]})
        for at in range(COUNT)
    ]
    if position is not None:
        entries.insert(position, ("__metadata__", texts))
    separators = None if is_spaced else (",", ":")
    return json.dumps(dict(entries), separators=separators).encode() + b" " * padding_bytes


def check_intact(path: Path, texts: dict[str, str]) -> None:
    assert path.read_bytes()[-len(DATA) :] == DATA
    with safe_open(path, "np") as file:
        assert (file.metadata() or {}) == texts
        assert b"".join(bytes(file.get_tensor(f"t{at}")) for at in range(COUNT)) == DATA


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(position=COUNT, padding_bytes=600, old_bytes=0, new_bytes=300, is_spaced=False, is_text_wide=False)
@given(
    position=st.sampled_from([None, *range(COUNT + 1)]),
    padding_bytes=st.one_of(st.integers(0, 70), st.integers(0, 5000)),
    old_bytes=st.integers(0, 400),
    new_bytes=st.one_of(st.integers(0, 700), st.integers(0, 20_000)),
    is_spaced=st.booleans(),
    is_text_wide=st.booleans(),
)
def test_tensor_bytes_stay_for_every_order_padding_and_size(
    tmp_path: Path,
    position: int | None,
    padding_bytes: int,
    old_bytes: int,
    new_bytes: int,
    is_spaced: bool,
    is_text_wide: bool,
) -> None:
    text = header(position, padding_bytes, {"format": "pt", "note": "x" * old_bytes}, is_spaced=is_spaced)
    content = struct.pack("<Q", len(text)) + text + DATA
    texts = {"format": "pt", "note": ("ü" if is_text_wide else "y") * new_bytes}
    path, copied = tmp_path / "x.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(content)
    copied.unlink(missing_ok=True)
    file = SourceFile(path)
    patch = plan_metadata_patch(file, texts)
    with copied.open("wb") as copy:
        copy_patched(file.fileno(), copy.fileno(), patch)
    file.close()
    check_intact(copied, texts)
    journal = tmp_path / ".journal"
    try:
        change_in_place(tmp_path, journal, Change((patch,)), lambda: check_intact(path, texts))
    except NoRoomError:
        change_in_place(tmp_path, journal, by_copy(Change((patch,))), lambda: check_intact(path, texts))
    assert path.read_bytes() == copied.read_bytes()

    def refuse() -> None:
        raise RefusedError("not this one")

    path.write_bytes(content)
    with pytest.raises(RefusedError):
        change_in_place(tmp_path, journal, by_copy(Change((patch,))), refuse)
    assert path.read_bytes() == content


@pytest.mark.planted_defect("INV-STAMP-BYTES-001")
@pytest.mark.parametrize(
    ("room_bytes", "splices"),
    [
        (0, [Splice(0, b"abcd", 0, b"abcde")]),
        (0, [Splice(0, b"abcd", 0, b"abc")]),
        (0, [Splice(0, b"abcd", 4, b"abcd")]),
        (0, [Splice(98, b"abcd", 98, b"abcd")]),
        (0, [Splice(0, b"abcd", 0, b"abcd"), Splice(3, b"d", 3, b"d")]),
        (8, [Splice(0, b"abcd", 0, b"abcd")]),
        (8, [Splice(0, b"abcd", 0, b"abcd" + bytes(8)), Splice(50, b"x", 50, b"y")]),
        (-8, []),
    ],
)
def test_a_wrong_plan_is_carried_out_nowhere(tmp_path: Path, room_bytes: int, splices: list[Splice]) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    patch = FilePatch("x", 100, 0, room_bytes, tuple(splices))
    with pytest.raises(RefusedError) as caught:
        change_in_place(tmp_path, tmp_path / ".journal", Change((patch,)), lambda: None)
    assert caught.value.invariant == "INV-STAMP-BYTES-001"
    with path.open("rb") as source, (tmp_path / "y").open("wb") as target, pytest.raises(RefusedError):
        copy_patched(source.fileno(), target.fileno(), patch)
    assert path.read_bytes() == bytes(100)
    assert {each.name for each in tmp_path.iterdir()} == {"x", "y"}


def test_a_right_plan_passes() -> None:
    for room_bytes, splices in (
        (0, ()),
        (0, (Splice(0, b"abcd", 0, b"efgh"), Splice(4, b"x", 4, b"y"))),
        (8, (Splice(0, b"abcd", 0, b"abcd" + bytes(8)), Splice(50, b"x", 58, b"y"))),
    ):
        check_plan(FilePatch("x", 100, 2 if room_bytes else 0, room_bytes, splices))
