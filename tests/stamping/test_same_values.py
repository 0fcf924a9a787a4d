"""What stands there already and what does not: values are compared as they would be written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.formats.json_text import is_same
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import Lie

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, math.inf, math.nan]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, VALUES)
def test_values_are_the_same_when_they_are_written_alike(first: Any, second: Any) -> None:
    def written(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert is_same(first, second) == (written(first) == written(second))
    assert is_same(first, json.loads(json.dumps(first)))


@pytest.mark.parametrize(
    ("first", "second"), [([1, 0], [True, False]), (-0.0, 0.0), ({"a": [1.0]}, {"a": [1]}), ([True], [1])]
)
@pytest.mark.planted_defect("INV-STAMP-HISTORY-001")
def test_a_value_of_another_type_does_not_stand_there_already(
    make_lie: Callable[[str], Lie], first: Any, second: Any
) -> None:
    for container in ("apr", "hf"):
        lie = make_lie(container)
        for value in (first, second):
            changes = StampChanges(settings={"x": value})
            result = stamp_file(lie.path, changes, in_place=True, force_reason="a lie stays one")
            assert len(result.changes) == 1
            again = stamp_file(lie.path, changes, in_place=True, force_reason="a lie stays one")
            assert again.changes == ()
        stamp_file(lie.path, StampChanges(), in_place=True, undo=True)
        with open_checkpoint(lie.path) as checkpoint:
            found: Mapping[str, Any] = checkpoint.metadata if container == "apr" else (checkpoint.config or {})
            assert is_same(found["x"], first)


def test_a_zero_of_the_other_sign_is_written_into_a_gguf_file(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("gguf")
    stamp_file(lie.path, lie.repair, in_place=True)
    for value in (-0.0, 0.0, -0.0):
        stamp_file(lie.path, StampChanges(settings={"general.x": value}), in_place=True)
        with open_checkpoint(lie.path) as checkpoint:
            assert math.copysign(1, checkpoint.metadata["general.x"]) == math.copysign(1, value)


@pytest.mark.parametrize("spelled", ["NaN", "Infinity", '{"__float__": "NaN"}'])
def test_a_directory_with_a_bare_nan_in_its_config_is_stamped(honest_qwen2: Path, tmp_path: Path, spelled: str) -> None:
    """Older versions of transformers wrote it, and it is read on purpose."""
    import shutil

    directory = Path(shutil.copytree(honest_qwen2, tmp_path / "model"))
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace("{", f'{{"odd": {spelled},', 1))
    before = (directory / "config.json").read_bytes()
    stamp_file(directory, StampChanges(license="MIT"), in_place=True)
    assert (directory / "config.json").read_bytes() == before
    stamp_file(directory, StampChanges(settings={"use_cache": False}), in_place=True)
    stamp_file(directory, StampChanges(settings={"use_cache": True}), tmp_path / "copy")
    stamp_file(directory, StampChanges(), in_place=True, undo=True)
