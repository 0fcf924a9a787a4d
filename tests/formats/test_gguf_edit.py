"""Other keys for a GGUF file where it stands: what was asked for, everything else as it was, and little written."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apr.errors import UsageError
from apr.formats.gguf.edit import LARGE_PAIR_BYTES, plan_metadata_patch, value_as_read
from apr.formats.gguf.header import Header
from apr.formats.gguf.layout import ValueType, is_padding
from apr.formats.gguf.read import Metadata, read_gguf
from apr.storage.copying import copy_file
from apr.storage.patches import FilePatch
from tests.formats import crafted_gguf as gguf_file
from tests.formats.crafted_gguf import ARCHITECTURE, DATA, INFOS, PAIRS, crafted, pair, text, words

TOKENS = words("tokenizer.ggml.tokens", [f"token {number}" for number in range(3000)])
EOS = pair("tokenizer.ggml.eos_token_id", gguf_file.U32, struct.pack("<I", 7))
TEMPLATE = pair("tokenizer.chat_template", gguf_file.STRING, text("{{ messages }}" * 20))


def apply_patch(path: Path, patch: FilePatch) -> None:
    """Change the file at `path`, without a journal."""
    changed = path.with_name("changed")
    copy_file(path, changed, patch)
    changed.replace(path)


def as_it_stands(path: Path) -> tuple[Header, dict[str, Any], dict[str, bytes]]:
    """The header, all values, and the bytes of the tensors."""
    with read_gguf(path) as checkpoint:
        assert isinstance(checkpoint.metadata, Metadata)
        assert checkpoint.problems == ()
        values = {key: list(v) if hasattr(v, "values") else v for key, v in checkpoint.metadata.items()}
        tensors = {name: entry.read_bytes() for name, entry in checkpoint.tensors.items()}
        return checkpoint.metadata.header, values, tensors


def changed(path: Path, new: Mapping[str, Any], gone: tuple[str, ...] = ()) -> FilePatch:
    """Carry out the change to the values `new`, without the keys `gone`, and check all that must hold of any change."""
    header, values, tensors = as_it_stands(path)
    types = {each.key: each.type for each in header.pairs}
    with read_gguf(path) as checkpoint:
        before = checkpoint.metadata
        assert isinstance(before, Metadata)
        after = {key: value for key, value in {**before, **new}.items() if key not in gone}
        patch = plan_metadata_patch(checkpoint.files[0], before, after)
    old = path.read_bytes()
    apply_patch(path, patch)
    new_header, new_values, new_tensors = as_it_stands(path)
    assert new_values == {key: value for key, value in {**values, **new}.items() if key not in gone}
    assert new_tensors == tensors
    assert {each.key: each.type for each in new_header.pairs if each.key in types and not is_padding(each.key)} == {
        key: kind for key, kind in types.items() if key in new_values
    }
    assert new_header.data_offset_bytes == header.data_offset_bytes + patch.room_bytes
    assert new_header.data_offset_bytes % header.alignment == 0
    assert patch.room_bytes % 4096 == 0
    assert path.read_bytes()[new_header.infos_offset_bytes :] == old[header.infos_offset_bytes :]
    for each in new_header.pairs:
        if is_padding(each.key):
            assert set(each.value) <= {" "}
    return patch


def written_bytes(patch: FilePatch) -> int:
    return sum(len(splice.new) for splice in patch.splices)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted([*PAIRS[:-1], TOKENS, EOS, TEMPLATE], INFOS, DATA))
    return path


def test_a_value_of_the_same_size_needs_no_room(path: Path) -> None:
    patch = changed(path, {"qwen2.block_count": 48, "a.yes": False})
    assert patch.room_bytes == 0


def test_a_value_behind_the_vocabulary_is_written_where_it_stands(path: Path) -> None:
    patch = changed(path, {"tokenizer.ggml.eos_token_id": 9})
    assert patch.room_bytes == 0
    assert written_bytes(patch) < 2000


def test_a_text_behind_the_vocabulary_that_grows_moves_in_front_and_leaves_its_place_to_padding(path: Path) -> None:
    patch = changed(path, {"tokenizer.chat_template": "{{ more }}" * 100})
    assert written_bytes(patch) < 12_000
    header, _, _ = as_it_stands(path)
    keys = [each.key for each in header.pairs]
    assert keys.index("tokenizer.chat_template") < keys.index("tokenizer.ggml.tokens")
    assert keys[-1] == "apr.padding.1"
    changed(path, {"tokenizer.chat_template": "short"})
    changed(path, {"tokenizer.chat_template": "long" * 4000})
    changed(path, {}, gone=("tokenizer.chat_template",))


def test_the_next_changes_fit_into_the_room_that_was_made(path: Path) -> None:
    assert changed(path, {"general.license": "MIT"}).room_bytes > 0
    assert changed(path, {"general.license": "Apache-2.0"}).room_bytes == 0
    assert changed(path, {"apr.data_source": "x" * 3000}).room_bytes == 0
    assert changed(path, {}, gone=("apr.data_source",)).room_bytes == 0
    assert changed(path, {"apr.data_source": "y" * 3500}).room_bytes == 0


def test_padding_is_kept_together_however_often_a_large_value_changes(path: Path) -> None:
    rooms = [changed(path, {"note": "x" * size}).room_bytes for size in (20_000, 50_000, 10, 30_000, 49_000, 20_000)]
    header, _, _ = as_it_stands(path)
    assert sum(is_padding(each.key) for each in header.pairs) <= 1
    assert sum(rooms) <= 50_000 + 2 * 8192


def test_a_history_beyond_the_size_of_large_pairs_does_not_make_the_file_grow_at_each_stamp(path: Path) -> None:
    entries = [{"note": "h" * 20_000}]
    rooms = 0
    for _ in range(20):
        entries.append({"note": "h" * 290})
        rooms += changed(path, {"apr.history": json.dumps(entries)}).room_bytes
    assert rooms <= 20_000 + 20 * 300 + 3 * 8192


def test_a_vocabulary_can_be_replaced(path: Path) -> None:
    changed(path, {"tokenizer.ggml.tokens": [f"new {number}" for number in range(5000)]})
    changed(path, {"tokenizer.ggml.tokens": ["few"]})


def test_a_place_too_small_for_padding_is_closed_by_moving_what_stands_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    tiny = pair("t", gguf_file.U8, b"\1")
    path.write_bytes(crafted([ARCHITECTURE, TOKENS, tiny, EOS], INFOS, DATA))
    changed(path, {}, gone=("t",))
    header, _, _ = as_it_stands(path)
    assert [each.key for each in header.pairs if not is_padding(each.key)] == [
        "general.architecture",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.eos_token_id",
    ]


def test_keys_below_an_architecture_are_renamed_in_front_and_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    behind = [pair("qwen2.same", gguf_file.U32, bytes(4)), pair("qwen2.list", gguf_file.STRING, text("v" * 40))]
    path.write_bytes(crafted([*PAIRS[:5], TOKENS, *behind], INFOS, DATA))
    for name in ("llama", "gemma3n", "qwen2", "x"):
        with read_gguf(path) as checkpoint:
            before = checkpoint.metadata
            assert isinstance(before, Metadata)
            old = before["general.architecture"]
            after = {key.replace(f"{old}.", f"{name}."): value for key, value in before.items()}
            after["general.architecture"] = name
            patch = plan_metadata_patch(checkpoint.files[0], before, after)
            types = {each.key.replace(f"{old}.", f"{name}."): each.type for each in before.header.pairs}
        apply_patch(path, patch)
        header, values, _ = as_it_stands(path)
        assert values == {**after, "tokenizer.ggml.tokens": values["tokenizer.ggml.tokens"]}
        for each in header.pairs:
            assert is_padding(each.key) or each.type == types[each.key]


KEYS = [f"k.{letter}" for letter in "abcdefgh"]
VALUES = (
    st.integers(0, 2**32 - 1)
    | st.booleans()
    | st.text(st.characters(codec="utf-8"), max_size=60)
    | st.integers(0, 40_000).map("s".__mul__)
    | st.lists(st.integers(0, 9), min_size=1, max_size=5000)
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    start=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8),
    steps=st.lists(st.dictionaries(st.sampled_from(KEYS), st.none() | VALUES, max_size=4), max_size=5),
    alignment=st.sampled_from([8, 32, 4096, 8192]),
)
def test_any_sequence_of_changes_leaves_exactly_what_was_asked_for(
    tmp_path_factory: pytest.TempPathFactory, start: dict[str, Any], steps: list[dict[str, Any]], alignment: int
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    align = pair("general.alignment", gguf_file.U32, struct.pack("<I", alignment))
    infos = [gguf_file.info("w", [8], gguf_file.F32_TENSOR, 0)]
    path.write_bytes(crafted([ARCHITECTURE, align, TOKENS], infos, bytes(range(32)), alignment=alignment))
    with read_gguf(path) as checkpoint:
        size_bytes = checkpoint.files[0].size_bytes
        problems = checkpoint.problems
    if problems:  # The zeros behind the last tensor.
        with path.open("ab") as file:
            file.truncate(size_bytes + alignment - 32)
    changed(path, start)
    for step in steps:
        _, values, _ = as_it_stands(path)
        gone = tuple(key for key, value in step.items() if value is None and key in values)
        changed(path, {}, gone=gone)
        fitting = {k: v for k, v in step.items() if v is not None and type(v) is type(values.get(k, v))}
        changed(path, fitting)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("qwen2.block_count", 1.5, "u32"),
        ("qwen2.block_count", -1, "u32"),
        ("qwen2.block_count", 1 << 32, "u32"),
        ("qwen2.block_count", True, "u32"),
        ("a.yes", 1, "bool"),
        ("a.i8", 128, "i8"),
        ("general.architecture", 3, "a text"),
        ("qwen2.attention.layer_norm_rms_epsilon", 1e39, "f32"),
        ("qwen2.attention.layer_norm_rms_epsilon", "1e-6", "f32"),
        ("a.bools", [True, 2], "bool"),
        ("a.bools", True, "a list of BOOL"),
        ("a.nested", [[1]], "not nested"),
        ("new", None, "a text, number, bool, or list of these"),
        ("new", {"a": 1}, "a text, number, bool, or list of these"),
        ("new", [], "a list of values of one type"),
        ("new", [1, "a"], "a list of values of one type"),
        ("new", [[1]], "a text, number, bool, or list of these"),
        ("new", 1 << 64, "at most 64 bits"),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, INFOS, DATA))
    with read_gguf(path) as checkpoint:
        assert isinstance(checkpoint.metadata, Metadata)
        with pytest.raises(UsageError) as caught:
            value_as_read(checkpoint.metadata, key, value)
        assert expected in str(caught.value.expected)
        assert caught.value.where == f"GGUF key {key}"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, ValueType.U32),
        (-5, ValueType.I32),
        (1 << 40, ValueType.U64),
        (-(1 << 40), ValueType.I64),
        (0.1, ValueType.F32),
        (1e-6, ValueType.F32),
        (0.1234567890123, ValueType.F64),
        (1e300, ValueType.F64),
        (True, ValueType.BOOL),
        ("text", ValueType.STRING),
        ([1, 2], ValueType.U32),
        ([1, -2], ValueType.I64),
        ([0.5, 0.1234567890123], ValueType.F64),
        (["a"], ValueType.STRING),
    ],
)
def test_a_new_key_gets_the_type_that_suits_and_reads_as_it_was_given(
    tmp_path: Path, value: Any, kind: ValueType
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, INFOS, DATA))
    changed(path, {"new.key": value})
    header, values, _ = as_it_stands(path)
    (found,) = (each for each in header.pairs if each.key == "new.key")
    assert (found.array.element_type if found.array else found.type) is kind
    assert values["new.key"] == value


@pytest.mark.parametrize("key", ["qwen2.rope.freq_base", "qwen2.rope.scaling.factor", "x.attention.layer_norm_epsilon"])
def test_a_new_key_that_llama_cpp_reads_as_a_float_is_one(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, INFOS, DATA))
    changed(path, {key: 10000})
    header, values, _ = as_it_stands(path)
    assert [each.type for each in header.pairs if each.key == key] == [ValueType.F32]
    assert values[key] == 10000


def test_a_whole_number_for_a_float_key_is_that_float(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(crafted(PAIRS, INFOS, DATA))
    with read_gguf(path) as checkpoint:
        assert isinstance(checkpoint.metadata, Metadata)
        found = value_as_read(checkpoint.metadata, "qwen2.attention.layer_norm_rms_epsilon", 1)
        assert (found, type(found)) == (1.0, float)


def test_a_pair_is_large_from_the_size_on_that_the_layout_says() -> None:
    assert len(TOKENS) > LARGE_PAIR_BYTES
