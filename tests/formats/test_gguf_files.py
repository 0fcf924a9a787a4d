"""GGUF: what the official writer writes is read, bounded in time and memory, with shapes and names as elsewhere."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apr.errors import DamagedFileError
from apr.formats.base import Format, StampKey
from apr.formats.dtypes import ENCODINGS, DType
from apr.formats.gguf.layout import DTYPE_OF_CODE, ValueType
from apr.formats.gguf.values import Array
from apr.formats.registry import open_checkpoint
from tests.formats import crafted_gguf as gguf_file
from tests.formats.crafted_gguf import INFOS, PAIRS, SMALL, crafted, info, pair, text, words

F32 = gguf_file.F32_TENSOR


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "x.gguf", SMALL)) as checkpoint:
        assert checkpoint.format is Format.GGUF
        assert [(each.key, each.value, each.place) for each in checkpoint.stamps] == [
            (StampKey.GGUF_ARCHITECTURE, "qwen2", "general.architecture")
        ]
        assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == {
            "token_embd.weight": (4, 4),
            "blk.0.attn_q.weight": (2, 32),
            "blk.0.attn_norm.weight": (8,),
        }
        quantised = checkpoint.tensors["blk.0.attn_q.weight"]
        assert (quantised.dtype, quantised.size_bytes) == (DType.Q4_0, 36)
        assert quantised.read_bytes() == bytes(range(36))
        assert checkpoint.tensors["blk.0.attn_norm.weight"].read_bytes() == bytes(range(32))
        assert checkpoint.problems == ()
        values = dict(checkpoint.metadata)
        assert values.pop("tokenizer.ggml.tokens") == ["<s>", "", "日本", "x" * 40]
        assert {key: value for key, value in values.items() if key.startswith("a.")} == {
            "a.u8": 255,
            "a.i8": -1,
            "a.u16": 65535,
            "a.i16": -1,
            "a.i32": -1,
            "a.i64": -1,
            "a.f64": 0.1,
            "a.yes": True,
            "a.no": False,
            "a.bools": [True, False, True],
            "a.nested": [[1, 2], ["ü"]],
            "a.empty": [],
        }


def test_dimensions_stand_under_the_names_of_a_config(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "x.gguf", SMALL)) as checkpoint:
        assert checkpoint.typed == {
            "num_hidden_layers": 2,
            "hidden_size": 4,
            "num_attention_heads": 2,
            "rms_norm_eps": 1e-06,
            "vocab_size": 4,
        }
        assert checkpoint.tokenizer_vocabulary_size == 4


@pytest.mark.parametrize(
    ("pairs", "typed"),
    [
        ([pair("general.name", gguf_file.STRING, text("x"))], {}),
        ([pair("general.architecture", gguf_file.STRING, text(" "))], {}),
        ([pair("general.architecture", gguf_file.U32, bytes(4))], {}),
        ([gguf_file.ARCHITECTURE, pair("llama.block_count", gguf_file.U32, bytes(4))], {}),
        (
            [
                gguf_file.ARCHITECTURE,
                gguf_file.array("qwen2.feed_forward_length", gguf_file.U32, 2, bytes([1, 0, 0, 0, 2, 0, 0, 0])),
            ],
            {},
        ),
        (
            [
                gguf_file.ARCHITECTURE,
                pair("qwen2.rope.scaling.type", gguf_file.STRING, text("yarn")),
                pair("qwen2.rope.scaling.factor", gguf_file.F32, struct.pack("<f", 4)),
                pair("qwen2.attention.key_length", gguf_file.U32, struct.pack("<I", 64)),
                pair("qwen2.attention.value_length", gguf_file.U32, struct.pack("<I", 64)),
                pair("qwen2.vocab_size", gguf_file.U32, struct.pack("<I", 9)),
                words("tokenizer.ggml.tokens", ["a"]),
            ],
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "head_dim": 64, "vocab_size": 9},
        ),
    ],
)
def test_what_is_not_stated_is_left_out(tmp_path: Path, pairs: list[bytes], typed: dict[str, Any]) -> None:
    with open_checkpoint(written(tmp_path / "x.gguf", crafted(pairs))) as checkpoint:
        assert checkpoint.typed == typed


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_versions_and_alignments(tmp_path: Path, version: int, alignment: int) -> None:
    pairs = [*PAIRS, pair("general.alignment", gguf_file.U32, struct.pack("<I", alignment))]
    infos = [info("a", [2], F32, 0), info("b", [2], F32, alignment)]
    data = b"first..." + bytes(alignment - 8) + b"second.."
    path = written(tmp_path / "x.gguf", crafted(pairs, infos, data, version=version, alignment=alignment))
    with open_checkpoint(path) as checkpoint:
        assert [entry.read_bytes() for entry in checkpoint.tensors.values()] == [b"first...", b"second.."]
        assert checkpoint.problems == ()


def test_a_vocabulary_stays_in_the_file_until_it_is_asked_for(tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(1000)]
    scores = gguf_file.array("tokenizer.ggml.scores", gguf_file.F32, 1000, struct.pack("<1000f", *[0.1] * 1000))
    path = written(tmp_path / "x.gguf", crafted([words("tokenizer.ggml.tokens", tokens), scores]))
    with open_checkpoint(path) as checkpoint, open_checkpoint(path) as other:
        found = checkpoint.metadata["tokenizer.ggml.tokens"]
        assert isinstance(found, Array)
        assert (len(found), repr(found)) == (1000, "an array of 1,000 STRING")
        assert found._values is None
        assert found == other.metadata["tokenizer.ggml.tokens"]
        assert found._values is None
        assert found == tokens
        assert found != tokens[:-1]
        assert (found[3], found[-2:]) == ("token 3", ["token 998", "token 999"])
        assert checkpoint.metadata["tokenizer.ggml.scores"][7] == 0.1
        assert checkpoint.tokenizer_vocabulary_size == 1000


def test_a_file_that_says_it_is_the_only_part_is_the_model(tmp_path: Path) -> None:
    one = [pair("split.count", gguf_file.U16, b"\1\0")]
    with open_checkpoint(written(tmp_path / "y.gguf", crafted([*PAIRS, *one]))) as checkpoint:
        assert checkpoint.problems == ()


def test_what_llama_cpp_would_refuse_is_said_and_stops_no_reader(tmp_path: Path) -> None:
    swapped = crafted(PAIRS, [info("b", [8], F32, 32), info("a", [8], F32, 0)], bytes(64))
    with open_checkpoint(written(tmp_path / "x.gguf", swapped)) as checkpoint:
        assert checkpoint.contradictions == ()
        assert "order of their list" in checkpoint.problems[0].what
    with open_checkpoint(written(tmp_path / "x.gguf", SMALL + b"more")) as checkpoint:
        assert checkpoint.contradictions == ()
        assert "not the end of the file" in checkpoint.problems[0].what


def test_a_file_without_tensors_is_a_vocabulary(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "x.gguf", crafted(PAIRS)[:-1])) as checkpoint:
        assert (checkpoint.tensors, checkpoint.problems) == ({}, ())


def test_the_tables_are_those_of_the_gguf_package() -> None:
    from gguf.constants import (
        GGML_QUANT_SIZES,
        GGMLQuantizationType,
        GGUFValueType,
    )

    ours = {
        code: (ENCODINGS[dtype].block_elements, ENCODINGS[dtype].block_bytes) for code, dtype in DTYPE_OF_CODE.items()
    }
    assert ours == {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    assert {code: dtype.value for code, dtype in DTYPE_OF_CODE.items()} == {
        int(kind): kind.name for kind in GGMLQuantizationType
    }
    assert {int(kind) for kind in ValueType} == {int(kind) for kind in GGUFValueType}


def test_block_types_that_are_not_decoded_are_those_gguf_has_no_code_for() -> None:
    from gguf import quants
    from gguf.constants import GGMLQuantizationType

    from apr.formats.dtypes import NOT_DECODED

    for kind in GGMLQuantizationType:
        dtype = DTYPE_OF_CODE[int(kind)]
        if ENCODINGS[dtype].is_quantized:
            assert (kind in quants._type_traits) == (dtype not in NOT_DECODED), dtype


@pytest.mark.interop
@pytest.mark.parametrize("quantisation", ["F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_what_the_official_writer_writes_is_read(tmp_path: Path, quantisation: str) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

    kind = GGMLQuantizationType[quantisation]
    values = np.random.default_rng(0).standard_normal((3, 5, 256)).astype(np.float32)
    writer = GGUFWriter(tmp_path / "x.gguf", "qwen2")
    writer.add_block_count(1)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "b", "ü"])
    writer.add_token_scores([0.5, -1.25, 3.0])
    writer.add_bool("qwen2.flag", True)
    writer.add_array("qwen2.list", [1, 2, 3])
    raw = quants.quantize(values, kind)
    writer.add_tensor("blk.0.x", raw, raw_dtype=kind)
    writer.add_tensor("blk.0.bias", values[0, 0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        theirs = GGUFReader(tmp_path / "x.gguf")
        fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert checkpoint.metadata.keys() == fields.keys()
        for key, value in fields.items():
            ours = checkpoint.metadata[key]
            assert ours == (float(f"{value:.7g}") if isinstance(value, float) else value), key
        entry = checkpoint.tensors["blk.0.x"]
        assert (entry.dtype.value, entry.shape) == (quantisation, (3, 5, 256))
        assert entry.read_bytes() == raw.tobytes() == theirs.tensors[0].data.tobytes()
        assert {tensor.name: tensor.data_offset for tensor in theirs.tensors} == {
            name: entry.offset_bytes for name, entry in checkpoint.tensors.items()
        }
        assert checkpoint.problems == ()


@pytest.mark.interop
def test_a_big_endian_file_is_recognised_and_refused(tmp_path: Path) -> None:
    from gguf import GGUFEndian, GGUFWriter

    writer = GGUFWriter(tmp_path / "x.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(DamagedFileError, match="big-endian") as caught:
        open_checkpoint(tmp_path / "x.gguf")
    assert (caught.value.expected, caught.value.found) == (
        "version 2 or 3, little-endian",
        "version 3 in big-endian order",
    )
    assert caught.value.remedy == f"convert it first: gguf-convert-endian {tmp_path / 'x.gguf'} little (package gguf)"


def test_statistics_of_block_types_are_those_of_their_values_or_say_that_they_are_not_decoded(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, quants

    from apr.quality.statistics import tensor_statistics

    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    raw = quants.quantize(values, GGMLQuantizationType.Q8_0).tobytes()
    infos = [info("a", [32, 2], gguf_file.Q8_0_TENSOR, 0), info("b", [32], 9, 96)]
    data = raw.ljust(96, b"\0") + bytes(40)
    with open_checkpoint(written(tmp_path / "x.gguf", crafted(PAIRS, infos, data))) as checkpoint:
        found = tensor_statistics(checkpoint.tensors["a"])
        assert (found.minimum, found.maximum) == pytest.approx((-1, 1), abs=0.01)
        assert tensor_statistics(checkpoint.tensors["b"]).problem == "values of Q8_1 are not decoded"


def test_infos_and_pairs_of_the_sample_are_what_it_says() -> None:
    assert len(INFOS) == 3
    assert SMALL.endswith(gguf_file.DATA)
