"""What may be stamped is checked before any file is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.errors import RefusedError, UsageError
from apr.stamping.changes import StampChanges, checked_changes, parse_setting
from apr.stamping.history import change_of, history_entry
from apr.stamping.licenses import canonical_license, is_placeholder

PLACEHOLDER_TEXTS = [
    "",
    "  ",
    "unknown",
    "UNKNOWN",
    "TBD",
    "todo",
    "N/A",
    "none",
    "null",
    "proprietary",
    "other",
    "custom",
    "?",
    "<license>",
    "[TODO]",
    "your_license",
    "LicenseRef-unknown",
    "LicenseRef-TODO",
    "NOASSERTION",
]


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("apache-2.0", "Apache-2.0"),
        (" MIT ", "MIT"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0"),
        ("LicenseRef-llama3", "LicenseRef-llama3"),
    ],
)
def test_spdx_expressions_are_kept_in_their_canonical_spelling(given: str, canonical: str) -> None:
    assert canonical_license(given, option="--license") == canonical


@pytest.mark.falsifies("INV-APR-PROV-003")
@pytest.mark.planted_defect("INV-APR-PROV-003")
@pytest.mark.parametrize("text", PLACEHOLDER_TEXTS)
@pytest.mark.parametrize("field", ["license", "data_license", "data_source"])
def test_placeholders_are_refused_as_licence_and_as_source(text: str, field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        checked_changes(StampChanges(**{field: text}))
    assert caught.value.invariant == "INV-APR-PROV-003"
    assert caught.value.where == "--" + field.replace("_", "-")


@pytest.mark.parametrize("text", ["Apache", "MIT AND", "GPLv3-or-so", "llama3", "my own terms"])
def test_what_spdx_does_not_know_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        canonical_license(text, option="--license")
    assert "LicenseRef-" in str(caught.value.remedy)
    assert repr(text) in str(caught.value.found)


def test_a_hub_word_for_a_model_licence_is_answered_with_its_spdx_form() -> None:
    with pytest.raises(RefusedError) as caught:
        canonical_license("Llama3.1", option="--license")
    assert caught.value.remedy == "--license LicenseRef-llama3.1"


def test_a_real_source_that_contains_a_placeholder_word_is_no_placeholder() -> None:
    assert not is_placeholder("other people's Python, 2024")
    assert checked_changes(StampChanges(data_source=" the-stack-v2 ")).data_source == "the-stack-v2"


def test_all_bad_licences_are_named_in_one_message() -> None:
    with pytest.raises(RefusedError) as caught:
        checked_changes(StampChanges(license="unknown", data_license="nonsense", data_source="TBD"))
    text = str(caught.value)
    for option in ("--license", "--data-license", "--data-source"):
        assert option in text


def test_nothing_to_stamp_is_a_usage_error_that_lists_the_flags() -> None:
    with pytest.raises(UsageError, match="nothing to stamp") as caught:
        checked_changes(StampChanges())
    assert "--hf-architecture" in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "license",
        "hf_architecture",
        "architectures",
        "model_type",
        "tokenizer",
        "hf_config",
        "apr_recorded",
        "tokenizer.vocabulary",
    ],
)
def test_a_setting_cannot_go_around_the_flag_that_checks_it(key: str) -> None:
    with pytest.raises(UsageError, match="cannot be set") as caught:
        checked_changes(StampChanges(settings={key: 1}))
    assert "use --" in str(caught.value.remedy)


def test_settings_are_json() -> None:
    assert parse_setting('chat_format="chatml"') == ("chat_format", "chatml")
    assert parse_setting("rope_theta=1000000.0") == ("rope_theta", 1000000.0)
    assert parse_setting('note="a=b"') == ("note", "a=b")
    with pytest.raises(UsageError, match="not JSON") as caught:
        parse_setting("chat_format=chatml")
    assert """--set 'chat_format="chatml"'""" in str(caught.value.remedy)
    for text in ("rope_theta", "=1", "rope_theta=NaN", "rope_theta=Infinity"):
        with pytest.raises(UsageError):
            parse_setting(text)


@pytest.mark.falsifies("INV-STAMP-HISTORY-001")
def test_a_change_keeps_the_previous_value_and_says_when_there_was_none() -> None:
    before = {"architecture": "LlamaForCausalLM", "license": None}
    changed = change_of("metadata", before, "architecture", "qwen2")
    assert changed is not None
    assert changed.to_json() == {"key": "metadata: architecture", "previous": "LlamaForCausalLM", "new": "qwen2"}
    added = change_of("metadata", before, "hf_model_type", "qwen2")
    assert added is not None
    assert added.to_json()["was_absent"] is True
    assert change_of("metadata", before, "architecture", "LlamaForCausalLM") is None
    entry = history_entry("stamp", [changed], reason="founding story")
    assert entry["tool"].startswith("apr ")
    assert entry["time"].endswith("Z")
    assert entry["changes"][0]["previous"] == "LlamaForCausalLM"
    assert str(Path.home()) not in str(entry)
