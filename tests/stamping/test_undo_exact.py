"""`--undo` gives back what stood there: values that JSON has no form for, long arrays, bytes that were not touched."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.convert.importing import import_checkpoint
from apr.errors import RefusedError
from apr.formats.gguf.values import Array
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges, parse_setting
from apr.stamping.patch import stamp_file
from tests.gguf_models import write_gguf
from tests.stamping.conftest import Lie

NOTHING = StampChanges()


@pytest.fixture
def gguf(honest_qwen2: Path, tmp_path: Path) -> Path:
    return write_gguf(honest_qwen2, tmp_path / "model.gguf", "qwen2", "F32")


def set_and_undo(path: Path, key: str, value: Any) -> Any:
    """What stands under `key` once a stamp of `value` was taken back; the stamp itself is proven to be read back."""
    stamp_file(path, StampChanges(settings={key: value}), in_place=True)
    stamp_file(path, NOTHING, in_place=True, undo=True, dry_run=True)
    stamp_file(path, NOTHING, in_place=True, undo=True)
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.metadata.get(key)
        return list(found) if isinstance(found, Array) else found


@pytest.mark.planted_defect("INV-STAMP-HISTORY-001")
def test_a_long_array_comes_and_goes(gguf: Path) -> None:
    tokens = [f"another token {number}" for number in range(320)]
    with open_checkpoint(gguf) as checkpoint:
        before = list(checkpoint.metadata["tokenizer.ggml.tokens"])
    found = set_and_undo(gguf, "tokenizer.ggml.tokens", tokens)
    assert found == before
    assert set_and_undo(gguf, "general.numbers", list(range(5000))) is None


@pytest.mark.parametrize("text", ["general.x=1e400", "general.x=-1e400", "general.x=[1e400, 0.5]", "general.x=-0.0"])
def test_numbers_that_json_lacks_come_and_go(gguf: Path, text: str) -> None:
    key, value = parse_setting(text)
    assert set_and_undo(gguf, key, value) is None
    stamp_file(gguf, StampChanges(settings={key: value}), in_place=True)
    other = [0.25] if isinstance(value, list) else 0.25
    assert set_and_undo(gguf, key, other) == value


def test_a_nan_that_stood_there_is_restored(gguf: Path) -> None:
    key = "general.x"
    stamp_file(gguf, StampChanges(settings={key: 7.5}), in_place=True)
    data = gguf.read_bytes()
    gguf.write_bytes(data.replace(struct.pack("<If", 6, 7.5), struct.pack("<If", 6, math.nan), 1))
    stamp_file(gguf, StampChanges(settings={key: 0.5}), in_place=True)
    stamp_file(gguf, NOTHING, in_place=True, undo=True)
    with open_checkpoint(gguf) as checkpoint:
        assert math.isnan(checkpoint.metadata[key])


def test_a_vocabulary_that_an_undo_does_not_concern_is_not_read(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp_file(gguf, StampChanges(license="MIT"), in_place=True)
    monkeypatch.setattr(Array, "values", lambda self: pytest.fail(f"{self.key} was read"))
    stamp_file(gguf, NOTHING, in_place=True, undo=True)


LAYOUTS: dict[str, Callable[[str], bytes]] = {
    "transformers": lambda text: text.encode(),
    "tabs and CRLF": lambda text: text.replace("  ", "\t").replace("\n", "\r\n").encode(),
    "four spaces, no end": lambda text: json.dumps(json.loads(text), indent=4).encode(),
    "compact": lambda text: json.dumps(json.loads(text), separators=(",", ":")).encode(),
    "one line": lambda text: json.dumps(json.loads(text)).encode(),
    "escaped": lambda text: json.dumps({**json.loads(text), "note": "\xe9\u4e2d"}, indent=2).encode(),
    "not escaped": lambda text: json.dumps({**json.loads(text), "n": "\xe9"}, indent=2, ensure_ascii=False).encode(),
}


@pytest.fixture(params=LAYOUTS)
def directory(request: pytest.FixtureRequest, honest_qwen2: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(honest_qwen2, tmp_path / "model"))
    path = copy / "config.json"
    path.write_bytes(LAYOUTS[request.param](path.read_text()))
    return copy


def test_a_config_that_a_stamp_does_not_change_keeps_its_bytes(directory: Path, tmp_path: Path) -> None:
    before = (directory / "config.json").read_bytes()
    stamp_file(directory, StampChanges(license="MIT", data_source="a corpus"), in_place=True)
    assert (directory / "config.json").read_bytes() == before
    stamp_file(directory, StampChanges(data_license="MIT"), tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_bytes() == before
    stamp_file(directory, NOTHING, in_place=True, undo=True)
    assert (directory / "config.json").read_bytes() == before


def test_a_config_that_a_stamp_changes_keeps_its_layout(directory: Path) -> None:
    before = (directory / "config.json").read_bytes()
    stamp_file(directory, StampChanges(settings={"use_cache": False}), in_place=True)
    assert (directory / "config.json").read_bytes() == before.replace(b"true", b"false", 1)
    stamp_file(directory, NOTHING, in_place=True, undo=True)
    assert (directory / "config.json").read_bytes() == before


def test_a_link_to_a_read_only_config_gives_way_to_a_file_of_its_own(honest_qwen2: Path, tmp_path: Path) -> None:
    """As in the cache of a hub: the blob stays as it is."""
    directory, blob = Path(shutil.copytree(honest_qwen2, tmp_path / "model")), tmp_path / "blob"
    (directory / "config.json").rename(blob)
    (directory / "config.json").symlink_to(blob)
    blob.chmod(0o444)
    before = blob.read_bytes()
    stamp_file(directory, StampChanges(license="MIT", settings={"use_cache": False}), in_place=True)
    assert blob.read_bytes() == before
    assert not (directory / "config.json").is_symlink()
    assert json.loads((directory / "config.json").read_text())["use_cache"] is False


def test_an_undo_after_a_conversion_says_what_to_do(honest_qwen2: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(honest_qwen2, tmp_path / "model"))
    stamp_file(directory, StampChanges(settings={"use_cache": False}), in_place=True)
    import_checkpoint(directory, tmp_path / "model.apr")
    with pytest.raises(RefusedError, match="no such place, as the stamp was made before it was converted") as caught:
        stamp_file(tmp_path / "model.apr", NOTHING, in_place=True, undo=True)
    assert "config.json: use_cache, which was True before" in str(caught.value.found)
    assert "convert that again" in str(caught.value.remedy)


def test_a_half_surrogate_that_stands_in_a_config_survives_a_stamp(make_lie: Callable[[str], Lie]) -> None:
    path = make_lie("hf").path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "odd": "\ud800", "note": "\xe9"}))
    changes = StampChanges(hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2", license="MIT")
    stamp_file(path.parent, changes, in_place=True)
    found = json.loads(path.read_text())
    assert (found["odd"], found["note"], found["model_type"]) == ("\ud800", "\xe9", "qwen2")
    stamp_file(path.parent, StampChanges(settings={"odd": "even"}), in_place=True)
    stamp_file(path.parent, NOTHING, in_place=True, undo=True)
    assert json.loads(path.read_text())["odd"] == "\ud800"


@pytest.mark.parametrize("changes", [[1], "abc", {"key": "x"}, [None], [["config.json: model_type"]]])
def test_a_history_that_something_else_wrote_is_refused(make_lie: Callable[[str], Lie], changes: Any) -> None:
    path = make_lie("hf").path / "apr.json"
    record = {**json.loads(path.read_text()), "history": [{"action": "stamp", "changes": changes}]}
    path.write_text(json.dumps(record))
    with pytest.raises(RefusedError, match="cannot be read") as caught:
        stamp_file(path.parent, NOTHING, in_place=True, undo=True)
    assert caught.value.invariant == "INV-STAMP-HISTORY-001"
