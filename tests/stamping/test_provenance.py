"""Licence, sources and other keys: written as named fields, read back as written, in every container."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from apr.errors import RefusedError, UsageError
from apr.formats.registry import open_checkpoint
from apr.quality.facts import text_stamp
from apr.stamping.changes import StampChanges, checked_changes
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import QWEN2, Lie, files_below

PROVENANCE = {"license": "apache-2.0", "data_source": "the stack, Python", "data_license": "LicenseRef-the-stack"}


@pytest.mark.falsifies("FALSIFY-APR-PROV-001")
def test_provenance_comes_back_as_written_and_the_rest_as_it_was(lie: Lie) -> None:
    stamp_file(lie.path, QWEN2, in_place=True)
    output = stamp_file(lie.path, StampChanges(**PROVENANCE), lie.output()).output
    with open_checkpoint(output) as after, open_checkpoint(lie.path) as before:
        assert {key: text_stamp(after, key) for key in PROVENANCE} == {**PROVENANCE, "license": "Apache-2.0"}
        assert [stamp.value for stamp in after.stamps] == [stamp.value for stamp in before.stamps]
        assert after.config == before.config
        kept = {
            key: value
            for key, value in before.metadata.items()
            if key not in {*PROVENANCE, "apr_recorded", "apr.history"}
        }
        assert {key: after.metadata.get(key) for key in kept} == kept


@pytest.mark.planted_defect("INV-APR-PROV-003")
@pytest.mark.falsifies("FALSIFY-APR-PROV-003")
def test_a_placeholder_is_refused_and_nothing_is_written(lie: Lie) -> None:
    before = files_below(lie.path.parent)
    for changes in (StampChanges(license="unknown"), StampChanges(data_license="TBD"), StampChanges(data_source="n/a")):
        with pytest.raises(RefusedError) as caught:
            stamp_file(lie.path, changes, in_place=True)
        assert caught.value.invariant == "INV-APR-PROV-003"
    assert files_below(lie.path.parent) == before


def test_other_keys_are_set_in_the_container_and_in_the_config_where_they_stand(
    make_lie: Callable[[str], Lie],
) -> None:
    lie = make_lie("apr")
    changes = StampChanges(**QWEN2.identity, settings={"rope_theta": 500000.0, "description": "a test", "x": [1, 2]})
    with open_checkpoint(stamp_file(lie.path, changes, lie.output()).output) as checkpoint:
        assert checkpoint.metadata["rope_theta"] == 500000.0
        assert checkpoint.config is not None
        assert checkpoint.config["rope_parameters"]["rope_theta"] == 500000.0
        assert "rope_theta" not in checkpoint.config
        assert checkpoint.metadata["description"] == "a test"
        assert checkpoint.metadata["x"] == [1, 2]
        assert "x" not in checkpoint.config


def test_a_setting_of_a_directory_goes_into_its_config(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("hf")
    changes = StampChanges(hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2", settings={"use_cache": False})
    output = stamp_file(lie.path, changes, lie.output()).output
    assert json.loads((output / "config.json").read_text())["use_cache"] is False


def test_a_setting_of_a_single_weights_file_is_a_text(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("safetensors")
    changes = StampChanges(**QWEN2.identity, settings={"note": "new", "steps": 5})
    with open_checkpoint(stamp_file(lie.path, changes, lie.output()).output) as checkpoint:
        assert checkpoint.metadata["note"] == "new"
        assert checkpoint.metadata["steps"] == "5"
        assert checkpoint.metadata["format"] == "pt"


def test_a_typed_key_of_another_type_is_refused(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    with pytest.raises(UsageError, match="wrong type") as caught:
        stamp_file(lie.path, StampChanges(**QWEN2.identity, settings={"hidden_size": "large"}), lie.output())
    assert "--set hidden_size" in str(caught.value.where)


def test_a_dimension_that_the_tensors_contradict_is_refused(make_lie: Callable[[str], Lie]) -> None:
    for container in ("apr", "apr-typed-only", "hf"):
        lie = make_lie(container)
        identity = {key: value for key, value in QWEN2.identity.items() if container != "hf" or key != "architecture"}
        changes = StampChanges(**identity, settings={"vocab_size": 12345})
        with pytest.raises(RefusedError) as caught:
            stamp_file(lie.path, changes, lie.output())
        assert caught.value.invariant == "INV-STAMP-TRUTH-001"
        assert "12345" in str(caught.value.found)
        assert not lie.output().exists()


@pytest.mark.planted_defect("INV-APR-PROV-003")
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("license", "MIT AND LicenseRef-unknown"),
        ("license", "MIT OR (Apache-2.0 AND licenseref-TBD)"),
        ("data_license", "LicenseRef-n-a OR LicenseRef-todo"),
        ("data_source", "???"),
        ("data_source", "TBD TBD"),
        ("data_source", "unknown, unknown"),
        ("data_source", "\u200b"),
        ("data_source", "un\u200bknown"),
    ],
)
def test_a_placeholder_is_found_in_any_company(field: str, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        checked_changes(StampChanges(**{field: text}))
    assert caught.value.invariant == "INV-APR-PROV-003"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("license", "MIT OR LicenseRef-llama3"),
        ("license", "Apache-2.0 WITH LLVM-exception"),
        ("license", "LicenseRef-other-than-MIT"),
        ("license", "LicenseRef-scancode-unknown-license-reference"),
        ("data_source", "The Unknown Pleasures corpus"),
        ("data_source", "\u4e2d\u6587\u7ef4\u57fa"),
        ("data_source", "https://example.org/?"),
        ("data_source", "Wikipedia and other"),
    ],
)
def test_what_only_looks_like_a_placeholder_is_taken(field: str, text: str) -> None:
    assert getattr(checked_changes(StampChanges(**{field: text})), field) == text
