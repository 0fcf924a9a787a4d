"""APR metadata: upstream's order and spelling, a config's facts under typed keys, and what is refused."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.errors import UsageError
from apr.formats.apr2.metadata import TYPED_KEYS, Spelling, apr2_metadata, spelling_of
from apr.formats.apr2.metadata_text import encode_metadata, float32_text
from apr.formats.json_text import parse_object, with_tagged_floats, without_tagged_floats
from apr.formats.recorded import Recorded

QWEN_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e6, "1000000.0"), (1e-6, "1e-6"), (1e-5, "0.00001"), (10000.0, "10000.0"), (0.1, "0.1"), (1.5, "1.5"),
        (123456.79, "123456.79"), (1e16, "1e16"), (1.25e-7, "1.25e-7"), (0, "0.0"), (-2.5, "-2.5"), (1e-45, "1e-45"),
        (3.4028235e38, "3.4028235e38"), (500000, "500000.0"),
    ],
)  # fmt: skip
def test_f32_numbers_are_written_as_upstream_writes_them(value: float, text: str) -> None:
    assert float32_text(value) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_f32_text_reads_back_as_the_same_number_and_is_json(value: float) -> None:
    assert struct.pack("<f", json.loads(float32_text(value))) == struct.pack("<f", value)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e39])
def test_a_number_beyond_f32_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="32-bit floating point"):
        encode_metadata({"rope_theta": value})


def test_typed_keys_come_in_upstreams_order_whatever_order_they_are_given_in() -> None:
    values = {"text": "x", "a non-negative integer": 1, "a number": 0.5, "an object": {"a": 1}}
    metadata = {key: values[kind.value] for key, kind in reversed(TYPED_KEYS.items())}
    text = encode_metadata({"own": 1, **metadata, "more": [None]})
    assert list(json.loads(text)) == [*TYPED_KEYS, "own", "more"]


def test_text_is_compact_and_raw_utf8() -> None:
    assert b'"description":"\xc3\xa9 \\"x\\"","license":null' in encode_metadata({"description": 'é "x"'})


def test_the_old_spelling_writes_every_absent_key_as_null_and_is_recognised() -> None:
    old = json.loads(encode_metadata({"name": "x"}, Spelling.NULL))
    assert set(old) == set(TYPED_KEYS)
    assert spelling_of(old) is Spelling.NULL
    assert spelling_of(json.loads(encode_metadata({"name": "x"}))) is Spelling.OMITTED
    assert spelling_of({}) is Spelling.OMITTED


@pytest.mark.parametrize(("alias", "canonical"), [("d_model", "hidden_size"), ("num_hidden_layers", "num_layers")])
def test_an_alias_beside_its_canonical_key_is_refused_even_when_null(alias: str, canonical: str) -> None:
    with pytest.raises(UsageError, match="lose all metadata") as caught:
        encode_metadata({alias: 1, canonical: None})
    assert caught.value.found == f"{alias} beside {canonical}"
    assert encode_metadata({alias: 1})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"hidden_size": "896"}, "wrong type"),
        ({"hidden_size": True}, "wrong type"),
        ({"name": 3}, "wrong type"),
        ({"x": {1, 2}}, "cannot be written as JSON"),
        ({"x": "\ud800"}, "surrogate pair"),
        ({"x": "y" * (17 << 20)}, "larger than APR readers accept"),
    ],
)
def test_what_no_reader_could_read_is_refused(metadata: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_metadata(metadata)


def test_infinity_is_written_in_the_tagged_form_and_read_back() -> None:
    config = {"time_step_limit": [0.0, math.inf], "x": {"y": -math.inf}, "z": math.nan, "n": 1}
    text = encode_metadata({"hf_config": config})
    assert b'"time_step_limit":[0.0,{"__float__":"Infinity"}]' in text
    back = without_tagged_floats(json.loads(text)["hf_config"])
    assert back["time_step_limit"] == [0.0, math.inf]
    assert back["x"] == {"y": -math.inf}
    assert math.isnan(back["z"])
    assert with_tagged_floats(back)["n"] == 1
    assert without_tagged_floats({"__float__": "1.0"}) == {"__float__": "1.0"}


def test_a_configs_facts_stand_under_typed_keys_and_the_config_is_kept_whole() -> None:
    metadata = apr2_metadata(
        config=QWEN_CONFIG, name="m", parameter_count=5, total_size_bytes=10, typed={"license": "MIT"}
    )
    assert {key: metadata[key] for key in ("architecture", "hf_architecture", "hf_model_type", "license")} == {
        "architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2", "license": "MIT",
    }  # fmt: skip
    assert (metadata["num_layers"], metadata["num_heads"], metadata["num_kv_heads"]) == (24, 14, 2)
    assert (metadata["rope_theta"], metadata["rms_norm_eps"]) == (1000000.0, 1e-6)
    assert "head_dim" not in metadata
    assert metadata["hf_config"] == QWEN_CONFIG
    assert metadata["tied_embeddings"] is True
    assert b'"rope_theta":1000000.0,"rms_norm_eps":1e-6' in encode_metadata(metadata)


def test_stamps_given_overrule_the_config() -> None:
    metadata = apr2_metadata(config=QWEN_CONFIG, stamps={"hf_architecture": "LlamaForCausalLM"})
    assert (metadata["hf_architecture"], metadata["hf_model_type"]) == ("LlamaForCausalLM", "qwen2")


def test_configs_with_other_names_and_nested_text_parts_are_understood() -> None:
    gpt2 = apr2_metadata(config={"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": None})
    assert (gpt2["hidden_size"], gpt2["num_layers"], gpt2["num_heads"]) == (64, 2, 4)
    assert "intermediate_size" not in gpt2
    nested = apr2_metadata(config={"model_type": "gemma3", "text_config": {"hidden_size": 8, "rope_theta": 1e4}})
    assert (nested["hidden_size"], nested["rope_theta"]) == (8, 1e4)


def test_values_no_typed_key_can_hold_are_left_out() -> None:
    config = {
        "intermediate_size": [1, 2],
        "hidden_size": -1,
        "rope_theta": math.inf,
        "architectures": [],
        "vocab_size": 0,
    }
    metadata = apr2_metadata(config=config)
    assert {"intermediate_size", "hidden_size", "rope_theta", "hf_architecture"}.isdisjoint(metadata)
    assert metadata["vocab_size"] == 0


def test_the_record_travels_in_the_metadata() -> None:
    assert "apr_recorded" not in apr2_metadata()
    assert apr2_metadata(recorded=Recorded(weights_digest="ab"))["apr_recorded"]["weights_digest"] == "ab"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in TYPED_KEYS), json_values, max_size=4))
def test_custom_keys_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, custom: dict[str, object]
) -> None:
    try:
        text = encode_metadata(custom)
    except UsageError as error:
        assert "surrogate" in error.what or "lose all metadata" in error.what  # noqa: PT017
        return
    back = without_tagged_floats(parse_object(text, path=tmp_path_factory.getbasetemp()))
    assert {key: back[key] for key in custom} == custom
