"""Safetensors: what the official library writes is read, what is written it reads, and damage is reported."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr.errors import AprError, DamagedFileError, UsageError
from apr.formats.base import Format
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.header import DTYPES
from apr.formats.safetensors.read import read_safetensors
from apr.formats.safetensors.write import write_safetensors
from apr.formats.writing import TensorToWrite, copy_of, stored_chunks, tensor_from_bytes

INTEGRITY = "INV-FILE-INTEGRITY-001"


def crafted(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SMALL = crafted(
    {"__metadata__": {"format": "pt"}, "a": tensor(), "b": tensor("F32", [1, 2], [4, 12])}, bytes(range(12))
)


def refusal_of(path: Path, data: bytes) -> DamagedFileError:
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value.where)
    return caught.value


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(SMALL)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.format is Format.SAFETENSORS
        assert checkpoint.tensors["b"].shape == (1, 2)
        assert checkpoint.tensors["b"].read_bytes() == bytes(range(4, 12))
        assert checkpoint.metadata == {"format": "pt"}
        assert (checkpoint.config, checkpoint.stamps, checkpoint.problems) == (None, (), ())


def test_stamps_in_the_metadata_are_read_and_a_neighbouring_config_is_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    metadata = {"hf_architecture": "Qwen2ForCausalLM", "model_type": "qwen2", "format": "pt"}
    write_safetensors(tmp_path / "x.safetensors", tensors=[], metadata=metadata)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.config is None
        assert [(stamp.value, stamp.place) for stamp in checkpoint.stamps] == [
            ("Qwen2ForCausalLM", "safetensors __metadata__: hf_architecture"),
            ("qwen2", "safetensors __metadata__: model_type"),
        ]


@pytest.mark.planted_defect(INTEGRITY)
def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    for length in range(len(SMALL)):
        refusal_of(tmp_path / "x.safetensors", SMALL[:length])


LIES: dict[str, tuple[bytes, str]] = {
    "header beyond file": (crafted({}, length=1 << 40), "longer than the file"),
    "absurd header": (crafted({}, length=2**64 - 1), "longer than the file"),
    "not JSON": (crafted(b"{nope}"), "cannot be read"),
    "not an object": (crafted([1]), "not an object"),
    "repeated tensor": (
        crafted(b'{"a":%b,"a":%b}' % ((b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}',) * 2), b"x"),
        "cannot be read",
    ),
    "metadata not texts": (crafted({"__metadata__": {"a": 1}}), "not an object of texts"),
    "entry not an object": (crafted({"a": 3}), "not an object"),
    "unknown dtype": (crafted({"a": tensor("F7")}, bytes(4)), "unknown dtype"),
    "dtype missing": (crafted({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"), "unknown dtype"),
    "quantised dtype of ours": (crafted({"a": tensor("APR_Q8", [0], [0, 0])}), "unknown dtype"),
    "shape not a list": (crafted({"a": tensor(shape=4)}, bytes(4)), "not a list of sizes"),
    "negative shape": (crafted({"a": tensor(shape=[-4])}, bytes(4)), "not a list of sizes"),
    "shape of truths": (crafted({"a": tensor(shape=[True, 4])}, bytes(4)), "not a list of sizes"),
    "shape overflow": (crafted({"a": tensor(shape=[1 << 40, 1 << 40])}, bytes(4)), "not a list of sizes"),
    "offsets not a pair": (crafted({"a": tensor(offsets=[0])}, bytes(4)), "not a range"),
    "offsets reversed": (crafted({"a": tensor(offsets=[4, 0])}, bytes(4)), "not a range"),
    "size not shape times dtype": (crafted({"a": tensor(shape=[3])}, bytes(4)), "does not follow"),
    "hole": (crafted({"a": tensor(), "b": tensor(offsets=[5, 9])}, bytes(9)), "belong to none"),
    "hole at the start": (crafted({"a": tensor(offsets=[1, 5])}, bytes(5)), "belong to none"),
    "overlap": (crafted({"a": tensor(), "b": tensor(offsets=[2, 6])}, bytes(6)), "overlap"),
    "same extent": (crafted({"a": tensor(), "b": tensor()}, bytes(4)), "overlap"),
    "bytes behind": (crafted({"a": tensor()}, bytes(5)), "belong to none"),
    "bytes missing": (crafted({"a": tensor()}, bytes(3)), "ends before its tensors"),
}  # fmt: skip


@pytest.mark.planted_defect(INTEGRITY)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_header_is_refused(tmp_path: Path, lie: str) -> None:
    data, message = LIES[lie]
    error = refusal_of(tmp_path / "x.safetensors", data)
    assert message in error.what
    assert error.invariant == INTEGRITY


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    error = refusal_of(tmp_path / "x.safetensors", b"")
    assert (error.what, error.invariant) == ("the file is empty", "FALSIFY-APR-PRETRAIN-INIT-004")


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UsageError, match="no such dtype"):
        write_safetensors(path, tensors=[tensor_from_bytes("w", DType.APR_Q8, (1,), bytes(5))])
    with pytest.raises(UsageError, match="its own metadata"):
        write_safetensors(path, tensors=[tensor_from_bytes("__metadata__", DType.U8, (1,), b"x")])
    with pytest.raises(UsageError, match="zero bytes") as caught:
        write_safetensors(path, tensors=[TensorToWrite("lm_head.weight", DType.F32, (2,), tuple, 0)])
    assert "tie_word_embeddings" in str(caught.value.remedy)
    assert not path.exists()


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorToWrite]:
    made = []
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda n: n != "__metadata__"
    )
    for name in draw(st.lists(names, unique=True, max_size=5)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        size_bytes = TensorToWrite(name, dtype, shape, tuple).size_bytes
        made.append(tensor_from_bytes(name, dtype, shape, draw(st.binary(min_size=size_bytes, max_size=size_bytes))))
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors())
def test_everything_comes_back(tmp_path: Path, written: list[TensorToWrite]) -> None:
    path = tmp_path / "x.safetensors"
    answer = write_safetensors(path, tensors=written)
    assert answer.size_bytes == path.stat().st_size
    with read_safetensors(path) as checkpoint:
        found = {name: (each.dtype, each.shape, each.read_bytes()) for name, each in checkpoint.tensors.items()}
        assert found == {each.name: (each.dtype, each.shape, b"".join(stored_chunks(each))) for each in written}
        assert (path.stat().st_size - sum(each.size_bytes for each in written)) % 8 == 0


@pytest.mark.interop
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors())
def test_the_official_library_reads_what_is_written(tmp_path: Path, written: list[TensorToWrite]) -> None:
    import safetensors

    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors=written)
    found = dict(safetensors.deserialize(path.read_bytes()))
    expected = {each.name: (each.dtype.value, list(each.shape), b"".join(stored_chunks(each))) for each in written}
    assert {name: (each["dtype"], each["shape"], bytes(each["data"])) for name, each in found.items()} == expected


@pytest.mark.interop
def test_what_the_official_library_writes_is_read_and_copied_to_the_same_bytes(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    from safetensors.numpy import save_file

    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(3, "i8"), "c": np.zeros((0, 2), "f2")}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with read_safetensors(tmp_path / "x.safetensors") as checkpoint:
        assert {name: each.shape for name, each in checkpoint.tensors.items()} == {"a": (2, 3), "b": (3,), "c": (0, 2)}
        assert checkpoint.tensors["a"].read_bytes() == arrays["a"].tobytes()
        write_safetensors(tmp_path / "y.safetensors", tensors=[copy_of(each) for each in checkpoint.tensors.values()])
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(8, 10_000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4))
def test_mutations_never_crash_the_reader(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(SMALL)
    for position, replacement in changes:
        position %= len(data)
        data[position : position + len(replacement)] = replacement
    (tmp_path / "x.safetensors").write_bytes(data)
    try:
        with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
            for entry in checkpoint.tensors.values():
                entry.read_bytes()
    except AprError as error:
        assert error.exit_code == 4  # noqa: PT017
