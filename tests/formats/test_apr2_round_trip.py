"""What is written as APR v2 is what is read back, for any names, dtypes, shapes and pieces; and what cannot be held."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr.errors import UsageError
from apr.formats.apr2.layout import DTYPE_CODES, Flags
from apr.formats.apr2.read import read_apr2
from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.recorded import Recorded
from apr.formats.writing import TensorToWrite, copy_of, stored_chunks, tensor_digests, tensor_from_bytes
from apr.storage.checksums import blake3_hex

names = st.text(min_size=1, max_size=40).filter(lambda name: _is_storable(name))
shapes = st.lists(st.integers(0, 5), max_size=8).map(tuple)


def _is_storable(name: str) -> bool:
    try:
        return 0 < len(name.encode()) <= 256
    except UnicodeEncodeError:
        return False


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorToWrite]:
    made = []
    for name in draw(st.lists(names, unique=True, max_size=5)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPE_CODES))), draw(shapes)
        size_bytes = TensorToWrite(name, dtype, shape, tuple).size_bytes
        made.append(tensor_from_bytes(name, dtype, shape, draw(st.binary(min_size=size_bytes, max_size=size_bytes))))
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors(), st.dictionaries(st.sampled_from(["name", "license", "own"]), st.text("abc é\n\x1b"), max_size=3))
def test_everything_comes_back(tmp_path: Path, written: list[TensorToWrite], metadata: dict[str, str]) -> None:
    path = tmp_path / "x.apr"
    answer = write_apr2(path, metadata=metadata, tensors=written)
    assert answer.size_bytes == path.stat().st_size
    with read_apr2(path) as checkpoint:
        expected = {each.name: (each.dtype, each.shape, b"".join(stored_chunks(each))) for each in written}
        found = {name: (each.dtype, each.shape, each.read_bytes()) for name, each in checkpoint.tensors.items()}
        assert found == expected
        assert {key: checkpoint.metadata[key] for key in metadata} == metadata
        assert checkpoint.problems == checkpoint.verify_checksums() == ()
        assert answer.tensor_digests == {name: blake3_hex(data) for name, (_, _, data) in expected.items()}


def test_copying_a_file_gives_the_same_bytes(tmp_path: Path) -> None:
    parts = [tensor_from_bytes(f"layer.{number}", DType.BF16, (number, 3), bytes(6 * number)) for number in range(12)]
    write_apr2(tmp_path / "a.apr", metadata={"name": "x"}, tensors=parts)
    with read_apr2(tmp_path / "a.apr") as source:
        copies = [copy_of(entry) for entry in reversed(source.tensors.values())]
        write_apr2(tmp_path / "b.apr", metadata=source.metadata, tensors=copies)
    assert (tmp_path / "a.apr").read_bytes() == (tmp_path / "b.apr").read_bytes()


def test_a_copy_can_replace_its_own_source(tmp_path: Path) -> None:
    path = tmp_path / "a.apr"
    write_apr2(path, metadata={}, tensors=[tensor_from_bytes("w", DType.I64, (2,), bytes(range(16)))])
    with read_apr2(path) as source:
        write_apr2(path, metadata={"name": "new"}, tensors=[copy_of(each) for each in source.tensors.values()])
        assert source.tensors["w"].read_bytes() == bytes(range(16))
    with read_apr2(path) as copied:
        assert copied.metadata["name"] == "new"
        assert copied.tensors["w"].read_bytes() == bytes(range(16))


def test_numpy_arrays_are_taken_without_copies(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    scalar = np.array(2.5, dtype="<f8")
    parts = [tensor_from_bytes("w", DType.F32, array.shape, array), tensor_from_bytes("s", DType.F64, (), scalar)]
    parts.append(tensor_from_bytes("none", DType.F32, (0, 2), np.zeros((0, 2), "<f4")))
    write_apr2(tmp_path / "x.apr", metadata={}, tensors=parts)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.tensors["w"].read_bytes() == array.tobytes()
        assert checkpoint.tensors["s"].read_bytes() == scalar.tobytes()


def test_recorded_digests_of_the_tensors_are_accepted_and_others_refused(tmp_path: Path) -> None:
    parts = [tensor_from_bytes("w", DType.U8, (3,), b"abc"), tensor_from_bytes("v", DType.U8, (1,), b"x")]
    record = Recorded(tensor_digests=tensor_digests(parts)).to_json()
    write_apr2(tmp_path / "x.apr", metadata={"apr_recorded": record}, tensors=parts)
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.recorded.tensor_digests["w"] == blake3_hex(b"abc")
        assert checkpoint.verify_checksums() == ()
    other = [tensor_from_bytes("w", DType.U8, (3,), b"abd"), parts[1]]
    with pytest.raises(UsageError, match="1 digests in the record are not those") as caught:
        write_apr2(tmp_path / "y.apr", metadata={"apr_recorded": record}, tensors=other)
    assert caught.value.where == "tensor w"
    with pytest.raises(UsageError, match="not those of the tensors") as caught:
        write_apr2(tmp_path / "y.apr", metadata={"apr_recorded": record}, tensors=parts[:1])
    assert caught.value.found == "no such tensor"
    assert os.listdir(tmp_path) == ["x.apr"]


U8 = DType.U8
REFUSED = {
    "too few bytes": ([tensor_from_bytes("w", U8, (3,), b"ab")], "another number of bytes"),
    "too many bytes": ([tensor_from_bytes("w", U8, (3,), b"abcd")], "another number of bytes"),
    "endless": ([TensorToWrite("w", U8, (3,), lambda: iter(lambda: b"x", b""))], "another number of bytes"),
    "twice": ([tensor_from_bytes("w", U8, (1,), b"a")] * 2, "unique"),
    "no name": ([tensor_from_bytes("", U8, (1,), b"a")], "unique and not empty"),
    "long name": ([tensor_from_bytes("é" * 129, U8, (1,), b"a")], "too long"),
    "surrogate name": ([tensor_from_bytes("\ud800", U8, (1,), b"a")], "no UTF-8 form"),
    "nine dimensions": ([tensor_from_bytes("w", U8, (1,) * 9, b"a")], "too many dimensions"),
    "negative dimension": ([tensor_from_bytes("w", U8, (-1, -1), b"a")], "negative"),
    "dtype without a code": ([tensor_from_bytes("w", DType.BOOL, (1,), b"a")], "no code for this dtype"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, case: str) -> None:
    parts, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        write_apr2(tmp_path / "x.apr", metadata={}, tensors=parts)
    assert os.listdir(tmp_path) == []


def test_an_error_while_bytes_are_made_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_apr2(tmp_path / "x.apr", metadata={}, tensors=[TensorToWrite("w", U8, (3,), broken)])
    assert os.listdir(tmp_path) == []


def test_room_for_later_metadata_is_kept_and_read_over(tmp_path: Path) -> None:
    parts = [tensor_from_bytes("w", U8, (3,), b"abc")]
    plain = write_apr2(tmp_path / "x.apr", metadata={}, tensors=parts).size_bytes
    assert (
        write_apr2(tmp_path / "x.apr", metadata={}, tensors=parts, metadata_slack_bytes=1000).size_bytes > plain + 900
    )
    with read_apr2(tmp_path / "x.apr") as checkpoint:
        assert checkpoint.tensors["w"].read_bytes() == b"abc"
        assert checkpoint.problems == checkpoint.verify_checksums() == ()


def test_flags_are_kept_when_given(tmp_path: Path) -> None:
    write_apr2(tmp_path / "x.apr", metadata={}, tensors=[], flags=Flags.LAYOUT_ROW_MAJOR | Flags.QUANTIZED)
    assert (tmp_path / "x.apr").read_bytes()[6:8] == b"\x20\x04"


def test_memory_stays_flat_while_a_large_tensor_is_written_copied_and_verified(tmp_path: Path) -> None:
    block = bytes(1 << 20)
    large = TensorToWrite("w", U8, (64 << 20,), lambda: (block for _ in range(64)))
    record = Recorded(tensor_digests=tensor_digests([large])).to_json()
    tracemalloc.start()
    try:
        write_apr2(tmp_path / "x.apr", metadata={"apr_recorded": record}, tensors=[large])
        with read_apr2(tmp_path / "x.apr") as checkpoint:
            copies = [copy_of(entry) for entry in checkpoint.tensors.values()]
            write_apr2(tmp_path / "y.apr", metadata=checkpoint.metadata, tensors=copies)
            assert checkpoint.verify_checksums() == ()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
