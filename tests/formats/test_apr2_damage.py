"""Damaged APR v2 files: every way to lie about structure is an `AprError` with place, both sides and a way out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr.errors import AprError, DamagedFileError
from apr.formats.apr2.read import read_apr2
from apr.formats.base import IntegrityProblem
from apr.formats.registry import open_checkpoint
from tests.formats.crafted_apr2 import SMALL, Crafted, CraftedTensor, as_json, floats, with_valid_sums

INTEGRITY = "INV-FILE-INTEGRITY-001"
MAGIC = "FALSIFY-APR-PRETRAIN-INIT-004"


def problems_of(path: Path, data: bytes) -> tuple[IntegrityProblem, ...]:
    """What opening and verifying reports; an error that stops opening is raised."""
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:
        for entry in checkpoint.tensors.values():
            entry.read_bytes()
        return (*checkpoint.problems, *checkpoint.verify_checksums())


def invariants_reported(path: Path, data: bytes) -> set[str | None]:
    """The ids under which opening and verifying complain; never another exception than `AprError`."""
    try:
        return {INTEGRITY for _ in problems_of(path, data)}
    except AprError as error:
        return {error.invariant}


def refusal_of(path: Path, data: bytes) -> DamagedFileError:
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        read_apr2(path)
    error = caught.value
    assert str(path) in str(error.where)
    assert error.expected is not None
    assert error.found is not None
    assert error.remedy is not None
    assert error.exit_code == 4
    return error


def test_the_undamaged_twin_is_clean(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "x.apr", SMALL.to_bytes()) == ()
    assert with_valid_sums(SMALL.to_bytes()) == SMALL.to_bytes()


@pytest.mark.planted_defect(INTEGRITY)
def test_a_file_cut_at_any_length_is_reported(tmp_path: Path) -> None:
    whole = SMALL.to_bytes()
    for length in range(len(whole)):
        if length == len(whole) - 4:
            continue
        error = refusal_of(tmp_path / "x.apr", whole[:length])
        assert error.invariant == (MAGIC if length < 4 else INTEGRITY), length


@pytest.mark.planted_defect(INTEGRITY)
def test_a_file_without_its_footer_is_read_but_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "x.apr", SMALL.but(has_footer=False).to_bytes())
    assert problem.what == "the file has no footer, so flipped bytes cannot be found"


@pytest.mark.planted_defect(INTEGRITY)
def test_a_flipped_byte_anywhere_is_reported(tmp_path: Path) -> None:
    whole = SMALL.to_bytes()
    for position in range(len(whole)):
        for mask in (0x01, 0xFF):
            data = bytearray(whole)
            data[position] ^= mask
            ids = invariants_reported(tmp_path / "x.apr", bytes(data))
            assert ids, position
            assert ids <= {INTEGRITY, MAGIC}, position


@pytest.mark.planted_defect(INTEGRITY)
def test_bytes_behind_the_file_are_reported(tmp_path: Path) -> None:
    problems = problems_of(tmp_path / "x.apr", SMALL.to_bytes() + b"more")
    assert "no section accounts for" in problems[0].what


@pytest.mark.planted_defect(MAGIC)
@pytest.mark.parametrize(
    ("start", "what", "advice"),
    [
        (b"", "the file is empty", "again"),
        (b"APRN\1\0", "older generation (APRN)", "upstream's `apr import`"),
        (b"APR1", "older generation (APR1)", "upstream's `apr import`"),
        (b"PK\x03\x04", "Python pickles", "safetensors"),
        (b"\x80\x02}q", "a Python pickle", "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer", "git lfs pull"),
        (b"hello", "of no known format", "check that the path"),
        (b"\0" * 64, "of no known format", "check that the path"),
    ],
)
def test_what_is_no_apr_file_is_named(tmp_path: Path, start: bytes, what: str, advice: str) -> None:
    (tmp_path / "x.apr").write_bytes(start)
    with pytest.raises(DamagedFileError) as caught:
        open_checkpoint(tmp_path / "x.apr")
    assert what in caught.value.what
    assert advice in str(caught.value.remedy)
    assert caught.value.invariant == MAGIC


HUGE = 1 << 62
HEADER_LIES = {
    "checksum": ({"checksum": 1}, "does not have the checksum"),
    "major version": ({"major": 3}, "another version"),
    "minor version": ({"minor": 1}, "another version"),
    "lz4": ({"flags": 0x0401}, "LZ4-compressed"),
    "zstd": ({"flags": 0x0402}, "Zstandard-compressed"),
    "encrypted": ({"flags": 0x0404}, "encrypted"),
    "column-major": ({"flags": 0x0800}, "column-major"),
    "too many tensors": ({"tensor_count": 4}, "has an empty name"),
    "absurd tensor count": ({"tensor_count": 2**32 - 1}, "more tensors than its index can hold"),
    "metadata outside": ({"metadata_offset": HUGE}, "outside the file"),
    "metadata in header": ({"metadata_offset": 0}, "overlaps the header"),
    "metadata over index": ({"metadata_size": 200}, "overlaps the tensor index"),
    "metadata over cap": ({"metadata_size": (16 << 20) + 1}, "larger than the format allows"),
    "absurd metadata size": ({"metadata_size": 2**32 - 1}, "larger than the format allows"),
    "metadata beyond file": ({"metadata_size": 4000}, "outside the file"),
    "index outside": ({"index_offset": HUGE}, "outside the file"),
    "index in header": ({"index_offset": 8}, "overlaps the header"),
    "data outside": ({"data_offset": HUGE}, "outside the file"),
    "data before index": ({"data_offset": 64}, "begins behind the tensor data"),
    "index starts late": ({"index_offset": 200}, "overlaps the tensor index|tensor|index"),
}


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("lie", HEADER_LIES)
def test_a_lie_in_the_header_is_refused(tmp_path: Path, lie: str) -> None:
    header, message = HEADER_LIES[lie]
    error = refusal_of(tmp_path / "x.apr", SMALL.but(header=header).to_bytes())
    assert any(part in error.what for part in message.split("|"))
    assert error.invariant == INTEGRITY


INDEX_LIES = {
    "unknown dtype": (0, {"code": 77}, "unknown dtype of tensor b'a.weight'"),
    "too many dimensions": (0, {"dimension_count": 9}, "too many dimensions"),
    "absurd dimensions": (0, {"dimension_count": 255}, "too many dimensions"),
    "missing dimensions": (2, {"dimension_count": 8}, "runs over the end of the index|overflows|ends inside"),
    "shape overflow": (0, {"dims": (1 << 40, 1 << 40)}, "overflows"),
    "shape overflow around zero": (0, {"dims": (0, 1 << 63, 1 << 63)}, "overflows"),
    "larger shape": (0, {"dims": (2, 4)}, "does not follow from its dtype and shape"),
    "other size": (0, {"size": 20}, "does not follow from its dtype and shape"),
    "other dtype": (0, {"code": 3}, "does not follow from its dtype and shape"),
    "absurd size": (0, {"size": HUGE}, "does not follow from its dtype and shape"),
    "bytes for no elements": (0, {"dims": (0, 3)}, "does not follow from its dtype and shape"),
    "outside the file": (0, {"offset": 1 << 40}, "ends before its tensors do"),
    "offset overflow": (0, {"offset": 2**64 - 1}, "ends before its tensors do"),
    "overlap": (1, {"offset": 0}, "overlap"),
    "same extent": (1, {"code": 0, "dims": (2, 3), "data": bytes(24), "offset": 0}, "overlap"),
    "duplicate name": (1, {"name": b"a.weight"}, "the same name"),
    "unsorted names": (1, {"name": b"Z"}, "not in order"),
    "name not UTF-8": (2, {"name": b"\xff\xfe"}, "not UTF-8"),
}


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("lie", INDEX_LIES)
def test_a_lie_in_the_index_is_refused(tmp_path: Path, lie: str) -> None:
    number, changes, message = INDEX_LIES[lie]
    error = refusal_of(tmp_path / "x.apr", SMALL.but_tensor(number, **changes).to_bytes())
    assert any(part in error.what for part in message.split("|")), error.what
    assert error.invariant == INTEGRITY


@pytest.mark.planted_defect(INTEGRITY)
def test_a_name_that_runs_over_the_index_is_refused(tmp_path: Path) -> None:
    data = bytearray(SMALL.to_bytes())
    index_at = struct.unpack_from("<Q", data, 24)[0]
    struct.pack_into("<H", data, index_at, 60_000)
    assert "runs over the end" in refusal_of(tmp_path / "x.apr", with_valid_sums(bytes(data))).what


@pytest.mark.planted_defect(INTEGRITY)
def test_tensors_hidden_behind_a_lower_count_are_reported(tmp_path: Path) -> None:
    problems = problems_of(tmp_path / "x.apr", SMALL.but(header={"tensor_count": 2}).to_bytes())
    assert any("not padding" in problem.what for problem in problems)


@pytest.mark.planted_defect(INTEGRITY)
def test_a_misplaced_tensor_is_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "x.apr", SMALL.but_tensor(0, offset=8).to_bytes())
    assert problem.what == "a tensor is not aligned"


@pytest.mark.planted_defect(INTEGRITY)
def test_a_misplaced_section_is_reported(tmp_path: Path) -> None:
    shifted = bytearray(SMALL.but(metadata=SMALL.metadata + b" " * 40).to_bytes())
    struct.pack_into("<QI", shifted, 12, 65, len(SMALL.metadata))
    shifted[65 : 65 + len(SMALL.metadata)] = SMALL.metadata
    (problem,) = problems_of(tmp_path / "x.apr", with_valid_sums(bytes(shifted)))
    assert problem.what == "the metadata is not aligned"


@pytest.mark.planted_defect(INTEGRITY)
def test_zero_bytes_are_only_for_a_tied_head(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "x.apr", SMALL.but_tensor(0, data=b"").to_bytes())
    assert problem.what == "a tensor is stored as zero bytes"
    assert "a.weight" in problem.where


@pytest.mark.planted_defect(INTEGRITY)
def test_unknown_flags_are_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "x.apr", SMALL.but(header={"flags": 0x4400}).to_bytes())
    assert problem.found == "0x4000"


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"{}x", "cannot be read"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'{"a":1,"a":1}', "cannot be read"),
        (b'{"x":{"a":1,"a":2}}', "cannot be read"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"}", "cannot be read"),
        (b"\0" * 10, "cannot be read"),
        (b'{"rope_theta":NaN}', "cannot be read"),
        (b'{"x":[-Infinity]}', "cannot be read"),
    ],
)
def test_metadata_that_is_no_json_object_is_refused(tmp_path: Path, metadata: bytes, message: str) -> None:
    error = refusal_of(tmp_path / "x.apr", SMALL.but(metadata=metadata).to_bytes())
    assert message in error.what
    assert "APR metadata" in str(error.where)


def test_a_repeated_key_is_named(tmp_path: Path) -> None:
    error = refusal_of(tmp_path / "x.apr", SMALL.but(metadata=b'{"license":"MIT","license":"GPL"}').to_bytes())
    assert "'license' twice" in str(error.found)


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "896"),
        ("hidden_size", -1),
        ("hidden_size", True),
        ("hidden_size", 1.5),
        ("hidden_size", 1 << 64),
        ("architecture", 7),
        ("rope_theta", "1e6"),
        ("quantization", []),
        ("hf_config", "no object"),
    ],
)
def test_a_typed_key_of_another_type_is_reported_and_not_used(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "x.apr"
    (problem,) = problems_of(path, SMALL.but(metadata=as_json(**{key: value})).to_bytes())
    assert key in problem.where
    with read_apr2(path) as checkpoint:
        assert (checkpoint.typed, checkpoint.stamps, checkpoint.config) == ({}, (), None)


def test_a_broken_record_is_refused_with_its_place(tmp_path: Path) -> None:
    error = refusal_of_record(tmp_path / "x.apr", {"schema": "apr.recorded/1", "probe": {"tokens": 3}})
    assert "apr_recorded: probe" in str(error.where)


def refusal_of_record(path: Path, record: object) -> DamagedFileError:
    path.write_bytes(SMALL.but(metadata=as_json(apr_recorded=record)).to_bytes())
    with pytest.raises(DamagedFileError) as caught:
        read_apr2(path)
    assert str(path) in str(caught.value.where)
    return caught.value


@pytest.mark.planted_defect(INTEGRITY)
def test_a_recorded_digest_finds_what_a_repaired_footer_hides(tmp_path: Path) -> None:
    from apr.storage.checksums import blake3_hex

    digests = {each.name.decode(): blake3_hex(each.data) for each in SMALL.tensors}
    record = {"schema": "apr.recorded/1", "tensor_digests": digests}
    clean = SMALL.but(metadata=as_json(apr_recorded=record))
    assert problems_of(tmp_path / "x.apr", clean.to_bytes()) == ()
    changed = clean.but_tensor(0, data=floats(1, 2, 3, 4, 5, 7))
    (problem,) = problems_of(tmp_path / "x.apr", changed.to_bytes())
    assert "a.weight" in problem.where
    assert problem.what == "the bytes of a tensor do not have the recorded digest"
    renamed = clean.but_tensor(2, name=b"d")
    (problem,) = problems_of(tmp_path / "x.apr", renamed.to_bytes())
    assert (problem.where, problem.found) == ("tensor c", "none of this name")


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    data = bytearray(SMALL.but_tensor(0, offset=8).but(metadata=as_json(hidden_size="x")).to_bytes())
    data[-10] ^= 1
    assert len(problems_of(tmp_path / "x.apr", bytes(data))) == 3


def test_names_with_terminal_sequences_are_shown_escaped(tmp_path: Path) -> None:
    error = refusal_of(tmp_path / "x.apr", SMALL.but_tensor(2, name=b"d\x1b[31m", size=9).to_bytes())
    assert "\x1b" not in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_never_crash_the_reader(tmp_path: Path, data: bytes, has_magic: bool) -> None:
    invariants_reported(tmp_path / "x.apr", b"APR\0" + data if has_magic else data)


@pytest.mark.fuzz
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.integers(0, 700),
)
def test_mutations_behind_valid_checksums_never_crash_the_reader(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut_bytes: int
) -> None:
    data = bytearray(SMALL.to_bytes())
    for position, replacement in changes:
        position %= len(data)
        data[position : position + len(replacement)] = replacement
    kept = bytes(data[: len(data) - cut_bytes]) if cut_bytes < 20 else bytes(data)
    invariants_reported(tmp_path / "x.apr", with_valid_sums(kept.ljust(80, b"\0")))


@pytest.mark.slow
def test_a_hostile_index_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x.apr"
    header = Crafted((), header={"tensor_count": 1, "data_offset": 1 << 33}).to_bytes()[:64]
    with path.open("wb") as file:
        file.write(header)
        file.truncate((1 << 33) + 100)
    with pytest.raises(DamagedFileError, match="more tensors than its index can hold"):
        read_apr2(path)


def test_a_sparse_tensor_of_a_terabyte_costs_nothing_to_open(tmp_path: Path) -> None:
    path, elements = tmp_path / "x.apr", 1 << 38
    start = Crafted((CraftedTensor(b"w", 0, (elements,), b"", size=4 * elements),)).to_bytes()[:-4]
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * elements + 4)
    with read_apr2(path) as checkpoint:
        assert checkpoint.tensors["w"].size_bytes == 1 << 40


def test_crafted_checksums_are_those_of_zlib() -> None:
    data = SMALL.to_bytes()
    assert struct.unpack("<I", data[-4:]) == (zlib.crc32(data[:-4]),)
