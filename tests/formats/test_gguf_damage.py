"""Damaged and hostile GGUF files: each is a `DamagedFileError` with place and both sides, in little time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr.errors import AprError, DamagedFileError
from apr.formats.gguf.read import read_gguf
from apr.formats.registry import open_checkpoint
from tests.formats import crafted_gguf as gguf_file
from tests.formats.crafted_gguf import ARCHITECTURE, DATA, INFOS, PAIRS, SMALL, array, crafted, info, pair, text, words

INTEGRITY = "INV-FILE-INTEGRITY-001"
MAGIC = "FALSIFY-APR-PRETRAIN-INIT-004"
F32, Q4_0 = gguf_file.F32_TENSOR, gguf_file.Q4_0_TENSOR
HUGE = (1 << 64) - 1


def refusal_of(path: Path, data: bytes) -> DamagedFileError:
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        read_gguf(path)
    error = caught.value
    assert str(path) in str(error.where)
    assert None not in (error.expected, error.found, error.remedy)
    assert error.exit_code == 4
    return error


def test_the_undamaged_twin_is_clean(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(SMALL)
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        assert checkpoint.problems == ()


@pytest.mark.planted_defect(INTEGRITY)
def test_a_file_cut_at_any_length_is_refused_with_the_place(tmp_path: Path) -> None:
    for length in range(len(SMALL)):
        error = refusal_of(tmp_path / "x.gguf", SMALL[:length])
        assert error.invariant == INTEGRITY
        assert " at byte " in str(error.where), length


def test_a_file_cut_in_its_magic_is_no_gguf(tmp_path: Path) -> None:
    for length in range(4):
        (tmp_path / "x.gguf").write_bytes(SMALL[:length])
        with pytest.raises(DamagedFileError) as caught:
            open_checkpoint(tmp_path / "x.gguf")
        assert caught.value.invariant == MAGIC


@pytest.mark.planted_defect(INTEGRITY)
def test_a_flipped_bit_gives_a_readable_file_or_a_clear_refusal(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    refusals = []
    for at in range(4, len(SMALL) - len(DATA)):
        for bit in (at % 8, 7):
            data = bytearray(SMALL)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            try:
                read_gguf(path).close()
            except AprError as error:
                refusals.append(error)
    assert len(refusals) > 500
    assert {error.exit_code for error in refusals} == {4}
    assert all(str(path) in str(error.where) for error in refusals)


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(st.tuples(st.integers(4, len(SMALL) - len(DATA) - 1), st.binary(max_size=12)), max_size=4))
def test_any_mixture_of_bytes_gives_a_readable_file_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    data = bytearray(SMALL)
    for at, raw in edits:
        data[at : at + len(raw)] = raw
    path.write_bytes(data)
    refusals = []
    try:
        with read_gguf(path) as checkpoint:
            for each in checkpoint.metadata.values():
                repr(each)
            for entry in checkpoint.tensors.values():
                entry.read_bytes()
    except AprError as error:
        refusals.append(error)
    assert {error.exit_code for error in refusals} <= {4}


def value(kind: int, raw: bytes) -> bytes:
    return crafted([ARCHITECTURE, pair("a.b", kind, raw)])


def tensors(*infos: bytes, data: bytes = DATA) -> bytes:
    return crafted(PAIRS, infos, data)


def nested(depth: int) -> bytes:
    raw = struct.pack("<IQ", gguf_file.U8, 0)
    for _ in range(depth):
        raw = struct.pack("<IQ", gguf_file.ARRAY, 1) + raw
    return raw


ALIGNMENT = "general.alignment"
LIES: dict[str, tuple[bytes, str, str]] = {
    "more keys than bytes": (crafted(PAIRS, pair_count=1 << 40), "more keys than it can hold", str(1 << 40)),
    "absurd number of keys": (crafted(PAIRS, pair_count=HUGE), "more keys than it can hold", str(HUGE)),
    "more tensors than bytes": (crafted(PAIRS, info_count=1 << 40), "more tensors than it can hold", str(1 << 40)),
    "one key too many": (crafted(PAIRS, pair_count=len(PAIRS) + 1), "", ""),
    "empty key": (crafted([pair("", gguf_file.U8, b"\1")]), "a key is empty", "''"),
    "key not UTF-8": (crafted([pair(b"\xff\xfe", gguf_file.U8, b"\1")]), "key 0 is not UTF-8", r"b'\xff\xfe'"),
    "key too long": (crafted([pair("k" * 70_000, gguf_file.U8, b"\1")]), "longer than the format allows", "70000"),
    "key twice": (crafted([ARCHITECTURE, *PAIRS]), "a key stands twice", "'general.architecture'"),
    "unknown type": (value(13, b"\0"), "unknown type of value", "13"),
    "unknown type of element": (value(gguf_file.ARRAY, struct.pack("<IQ", 99, 0)), "unknown type of value", "99"),
    "bool of 2": (value(gguf_file.BOOL, b"\2"), "a bool is neither 0 nor 1", "2"),
    "bool of 2 in an array": (crafted([array("a", gguf_file.BOOL, 3, b"\0\1\7")]), "a bool is neither 0 nor 1", "7"),
    "text beyond the file": (value(gguf_file.STRING, struct.pack("<Q", 1 << 40)), "ends inside the value of key", ""),
    "absurd text": (value(gguf_file.STRING, struct.pack("<Q", HUGE)), "ends inside the value of key", ""),
    "text not UTF-8": (value(gguf_file.STRING, text(b"\xc3\x28")), "the value of key a.b is not UTF-8", "b'\\xc3("),
    "array beyond the file": (
        value(gguf_file.ARRAY, struct.pack("<IQ", gguf_file.U64, 1 << 30)),
        "the array of key a.b is longer than the file",
        str(1 << 30),
    ),
    "absurd array": (
        value(gguf_file.ARRAY, struct.pack("<IQ", gguf_file.U8, HUGE)),
        "the array of key a.b is longer than the file",
        str(HUGE),
    ),
    "absurd array of texts": (
        value(gguf_file.ARRAY, struct.pack("<IQ", gguf_file.STRING, HUGE)),
        "the array of key a.b is longer than the file",
        str(HUGE),
    ),
    "absurd text in an array": (
        crafted([array("a", gguf_file.STRING, 2, struct.pack("<Q", HUGE) + text("x"))], data=bytes(64)),
        "the array of key a lies outside the file",
        "",
    ),
    "absurd array of arrays": (
        crafted([array("a", gguf_file.ARRAY, HUGE, b"")], data=bytes(64)),
        "the array of key a is longer than the file",
        str(HUGE),
    ),
    "nested too deep": (value(gguf_file.ARRAY, nested(6)), "nested too far", "depth 5"),
    "alignment of zero": (crafted([pair(ALIGNMENT, gguf_file.U32, bytes(4))]), "alignment", "0 of type u32"),
    "alignment of 24": (crafted([pair(ALIGNMENT, gguf_file.U32, b"\x18\0\0\0")]), "alignment", "24 of type u32"),
    "alignment of 4": (crafted([pair(ALIGNMENT, gguf_file.U32, b"\4\0\0\0")]), "alignment", "4 of type u32"),
    "alignment as a text": (
        crafted([pair(ALIGNMENT, gguf_file.STRING, text("32"))]),
        "alignment",
        "of type string",
    ),
    "tensor without name": (tensors(info("", [4], F32, 0)), "a tensor has no name", "an empty text"),
    "tensor twice": (tensors(info("a", [4], F32, 0), info("a", [4], F32, 32)), "a tensor stands twice", "a"),
    "five dimensions": (tensors(info("a", [1] * 5, F32, 0)), "too many dimensions", "5"),
    "absurd rank": (tensors(text("a") + struct.pack("<I", 0xFFFFFFFF)), "too many dimensions", str(0xFFFFFFFF)),
    "absurd shape": (tensors(info("a", [1 << 40, 1 << 40], F32, 0)), "the shape is absurd", f"{[1 << 40] * 2}"),
    "absurd shape with a zero": (tensors(info("a", [1 << 63, 1 << 62, 0], F32, 0)), "the shape is absurd", ""),
    "type given up": (tensors(info("a", [32], 4, 0)), "unknown type of tensor", "4"),
    "unknown tensor type": (tensors(info("a", [32], 1000, 0)), "unknown type of tensor", "1000"),
    "part of a block": (tensors(info("a", [33], Q4_0, 0)), "do not fill its blocks", "[33]"),
    "rows of part of a block": (tensors(info("a", [16, 2], Q4_0, 0)), "do not fill its blocks", "[2, 16]"),
    "not aligned": (tensors(info("a", [4], F32, 8)), "not aligned", "8"),
    "beyond the file": (tensors(info("a", [1 << 20], F32, 0)), "ends before its tensors do", ""),
    "absurd offset": (tensors(info("a", [4], F32, HUGE - 31)), "ends before its tensors do", ""),
    "overlap": (tensors(info("a", [32], F32, 0), info("b", [4], F32, 32)), "tensors overlap", ""),
    "same place": (tensors(info("a", [4], F32, 0), info("b", [4], F32, 0)), "tensors overlap", ""),
}


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_refused_with_what_was_found(tmp_path: Path, lie: str) -> None:
    data, what, found = LIES[lie]
    tracemalloc.start()
    started_s = time.process_time()
    try:
        error = refusal_of(tmp_path / "x.gguf", data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert what in error.what
    assert found in str(error.found)
    assert error.invariant == INTEGRITY
    assert peak_bytes < 2 << 20
    assert time.process_time() - started_s < 1


@pytest.mark.parametrize(
    ("version", "found"), [(0, "version 0"), (1, "version 1"), (4, "version 4"), (0x03000000, "big-endian order")]
)
def test_other_versions_are_refused_by_name(tmp_path: Path, version: int, found: str) -> None:
    error = refusal_of(tmp_path / "x.gguf", crafted(PAIRS, INFOS, DATA, version=version))
    assert found in str(error.found)
    assert error.invariant == MAGIC


def test_a_sparse_file_of_zeros_is_refused_before_it_is_walked(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted([array("a", gguf_file.STRING, 1 << 30, b"")], alignment=1))
    with path.open("r+b") as file:
        file.truncate(64 << 30)
    started_s = time.process_time()
    with pytest.raises(DamagedFileError, match="longer than the file"):
        read_gguf(path)
    assert time.process_time() - started_s < 1


def test_a_text_in_a_vocabulary_that_is_not_utf8_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    raw = text("ok") * 999 + text(b"\xff")
    path.write_bytes(crafted([array("tokenizer.ggml.tokens", gguf_file.STRING, 1000, raw)]))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tokenizer_vocabulary_size == 1000
        with pytest.raises(DamagedFileError, match="not UTF-8") as caught:
            checkpoint.metadata["tokenizer.ggml.tokens"].values()
        assert "tokenizer.ggml.tokens" in str(caught.value.where)


def test_a_history_that_is_no_json_is_a_problem_and_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted([*PAIRS, pair("apr.history", gguf_file.STRING, text("{"))], INFOS, DATA))
    with open_checkpoint(path) as checkpoint:
        assert [problem.what for problem in checkpoint.contradictions] == ["the history of stamps cannot be read"]
        assert len(checkpoint.tensors) == 3


def test_words_of_the_helper_are_counted() -> None:
    assert words("k", ["a"]) == array("k", gguf_file.STRING, 1, text("a"))
