"""`--undo` restores what the history says; `--auto` stamps what the tensors decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from apr.errors import RefusedError, UsageError
from apr.formats.gguf.values import Array
from apr.formats.registry import open_checkpoint
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from apr.stamping.changes import StampChanges
from apr.stamping.patch import editor_of, stamp_file
from tests.stamping.conftest import QWEN2, Lie, stored_digests
from tests.tiny_models import save_tiny

NOTHING = StampChanges()


def said(path: Path) -> dict[str, dict[str, object]]:
    """Everything a stamp can change in the checkpoint at `path`, without the history itself."""
    with open_checkpoint(path) as checkpoint:
        places = editor_of(checkpoint.format).places(checkpoint)
        for values in places.values():
            values.update({key: list(value) for key, value in values.items() if isinstance(value, Array)})
    return {
        place: {key: value for key, value in values.items() if key not in ("apr_recorded", "apr.history")}
        for place, values in places.items()
    }


@pytest.mark.planted_defect("INV-STAMP-HISTORY-001")
def test_undo_restores_every_value_one_stamp_at_a_time(lie: Lie) -> None:
    digests = stored_digests(lie.path)
    states = [said(lie.path)]
    for changes in (lie.repair, StampChanges(license="MIT"), StampChanges(license="Apache-2.0", settings={"n": 1.5})):
        stamp_file(lie.path, changes, in_place=True)
        states.append(said(lie.path))
    for expected in reversed(states[:-1]):
        result = stamp_file(lie.path, NOTHING, in_place=True, undo=True)
        assert result.entry["action"] == "undo"
        assert said(lie.path) == expected
    assert stored_digests(lie.path) == digests
    with pytest.raises(RefusedError, match="no stamp is left"):
        stamp_file(lie.path, NOTHING, in_place=True, undo=True)


def test_an_undo_that_restores_a_lie_says_so(lie: Lie) -> None:
    stamp_file(lie.path, lie.repair, in_place=True)
    result = stamp_file(lie.path, NOTHING, in_place=True, undo=True)
    assert any("untrue" in finding.message for finding in result.findings)


@pytest.mark.planted_defect("INV-STAMP-HISTORY-001")
def test_a_value_changed_by_something_else_is_not_overwritten_by_an_undo(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("hf")
    stamp_file(lie.path, QWEN2, in_place=True)
    config = json.loads((lie.path / "config.json").read_text())
    config["model_type"] = "qwen3"
    (lie.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="changed since") as caught:
        stamp_file(lie.path, NOTHING, in_place=True, undo=True)
    assert "qwen3" in str(caught.value.found)


def test_undo_takes_no_stamps(lie: Lie) -> None:
    with pytest.raises(UsageError, match="sets nothing"):
        stamp_file(lie.path, QWEN2, in_place=True, undo=True)


def test_auto_completes_what_the_user_names_among_twins(lie: Lie) -> None:
    named = StampChanges(hf_model_type="qwen2")
    stamp_file(lie.path, named, in_place=True, auto=True)
    with open_checkpoint(lie.path) as checkpoint:
        assert str(give_verdict(checkpoint).claim.architecture) == lie.class_names["qwen2"]
    assert stamp_file(lie.path, named, in_place=True, auto=True).changes == ()
    assert stamp_file(lie.path, NOTHING, in_place=True, auto=True).changes == ()


def test_auto_stamps_what_only_one_architecture_explains(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "phi3", "phi3")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(directory / "model.safetensors"), bare)
    stamp_file(bare, NOTHING, in_place=True, auto=True)
    with open_checkpoint(bare) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "Phi3ForCausalLM"
        assert give_verdict(checkpoint).kind is VerdictKind.MATCH


def test_auto_takes_the_better_known_of_two_names_for_one_computation(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "qwen2", "qwen2")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(directory / "model.safetensors"), bare)
    result = stamp_file(bare, NOTHING, in_place=True, auto=True)
    assert any("seed_oss" in note and "computes the same" in note for note in result.notes)
    with open_checkpoint(bare) as checkpoint:
        assert checkpoint.metadata["hf_model_type"] == "qwen2"
        assert give_verdict(checkpoint).kind is VerdictKind.MATCH


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
def test_auto_does_not_guess_between_name_twins(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "llama", "llama")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(directory / "model.safetensors"), bare)
    before = bare.read_bytes()
    with pytest.raises(RefusedError, match="do not decide") as caught:
        stamp_file(bare, NOTHING, in_place=True, auto=True)
    assert "llama" in str(caught.value.found)
    assert bare.read_bytes() == before


def test_auto_keeps_the_word_of_a_stamp_that_fits(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "llama", "llama")
    result = stamp_file(directory, NOTHING, in_place=True, auto=True)
    assert result.changes == ()
    assert any("as well" in note for note in result.notes)


@pytest.mark.parametrize("is_undone", [False, True])
def test_config_and_every_shard_are_stamped_together(tmp_path: Path, lies: dict[str, Path], is_undone: bool) -> None:
    directory = tmp_path / "sharded"
    directory.mkdir()
    tensors = load_file(lies["hf"] / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        stamps = {"format": "pt", "hf_architecture": "LlamaForCausalLM", "model_type": "llama"}
        save_file({name: tensors[name] for name in part}, directory / shard, stamps)
        weight_map |= dict.fromkeys(part, shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_bytes((lies["hf"] / "config.json").read_bytes())
    digests, before = stored_digests(directory), said(directory)
    stamp_file(directory, QWEN2, in_place=True)
    with open_checkpoint(directory) as checkpoint:
        assert give_verdict(checkpoint).kind is not VerdictKind.CONTRADICTION
        assert {stamp.value for stamp in checkpoint.stamps} == {"qwen2", "Qwen2ForCausalLM"}
        assert len(checkpoint.stamps) == 6
    if is_undone:
        stamp_file(directory, NOTHING, in_place=True, undo=True)
        assert said(directory) == before
    assert stored_digests(directory) == digests
    assert not list(directory.glob(".*"))
