"""The founding story's repair: a false stamp is replaced, everything else of the file stays, in every container."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.errors import RefusedError
from apr.formats.registry import open_checkpoint
from apr.gates.road import deepen, examine
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import LLAMA, LLAMA_FIELDS, QWEN2, Lie, files_below, stamp_values, stored_digests

DESTINATIONS = ("output", "in place")


def stamp(lie: Lie, destination: str, changes: StampChanges, **options: str) -> Path:
    """Stamp the checkpoint of `lie` and give the path of the stamped one."""
    if destination == "output":
        return stamp_file(lie.path, changes, lie.output(), **options).output
    return stamp_file(lie.path, changes, in_place=True, **options).output


@pytest.mark.falsifies("FALSIFY-STAMP-BYTES-001")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_repaired_file_says_the_truth_and_holds_the_same_bytes(lie: Lie, destination: str) -> None:
    before, original = stored_digests(lie.path), files_below(lie.path)
    output = stamp(lie, destination, lie.repair)
    assert stored_digests(output) == before
    with open_checkpoint(output) as checkpoint:
        # Architectures of llama.cpp have more name twins: `dream` and `llada` hold the tensors of `qwen2`.
        twin = lie.container == "gguf"
        assert give_verdict(checkpoint).kind is (VerdictKind.AMBIGUOUS if twin else VerdictKind.MATCH)
        assert stamp_values(checkpoint) <= {"qwen2", "Qwen2ForCausalLM"}
        assert checkpoint.verify_checksums() == ()
    if destination == "output":
        assert files_below(lie.path) == original


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("container", ["apr", "apr-typed-only", "hf"])
def test_a_repaired_file_passes_every_gate_that_its_lie_failed(
    make_lie: Callable[[str], Lie], container: str, destination: str
) -> None:
    lie = make_lie(container)
    before = examine(lie.path)
    before.close()
    assert {"INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001"} <= {finding.id for finding in before.refusals}
    after = deepen(examine(stamp(lie, destination, lie.repair)))
    after.close()
    assert after.refusals == ()


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("container", ["apr", "hf"])
def test_a_repair_keeps_record_tokenizer_and_every_config_field_but_the_false_ones(
    make_lie: Callable[[str], Lie], container: str, destination: str
) -> None:
    lie = make_lie(container)
    with open_checkpoint(lie.path) as before:
        config, recorded, tokenizer = dict(before.config or {}), before.recorded, dict(before.tokenizer_files())
        generation_config = before.generation_config
    with open_checkpoint(stamp(lie, destination, lie.repair)) as after:
        assert (after.recorded.training, after.recorded.probe) == (recorded.training, recorded.probe)
        assert after.recorded.tensor_digests == recorded.tensor_digests
        assert after.tokenizer_files() == tokenizer
        assert after.generation_config == generation_config
        expected = {**config, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        del expected["attention_bias"]
        assert list((after.config or {}).items()) == list(expected.items())
        entry = after.recorded.history[-1]
    removed = [change for change in entry["changes"] if change.get("is_removed")]
    assert [change["key"].split(": ")[1] for change in removed] == ["attention_bias"]
    assert removed[0]["previous"] is LLAMA_FIELDS["attention_bias"]


@pytest.mark.falsifies("FALSIFY-STAMP-HISTORY-001")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_the_history_keeps_previous_values_of_every_stamp_in_order(lie: Lie, destination: str) -> None:
    output = stamp(lie, destination, lie.repair, reason="relabelled by a trainer")
    back = Lie(lie.container, output)
    stamp(back, "in place", LLAMA, force_reason="a planted lie")
    history = recorded_history(output, lie.container)
    stamps = [entry for entry in history if entry["action"] == "stamp"]
    assert [entry["reason"] for entry in stamps] == ["relabelled by a trainer", None]
    replaced = {key: change for key, change in changes_by_key(stamps[0]).items() if not change.get("was_absent")}
    assert ("llama" if lie.container == "gguf" else "LlamaForCausalLM") in str(
        [change["previous"] for change in replaced.values()]
    )
    undone = changes_by_key(stamps[1])
    assert all(undone[key]["previous"] == change["new"] for key, change in replaced.items() if key in undone)
    assert undone
    assert stamps[1]["overrides"] == {"INV-STAMP-TRUTH-001": "a planted lie"}
    assert all(entry["tool"].startswith("apr ") and entry["time"].endswith("Z") for entry in stamps)


def changes_by_key(entry: dict) -> dict[str, dict]:
    return {change["key"]: change for change in entry["changes"]}


def recorded_history(path: Path, container: str) -> list[dict]:
    """The stamp history in the checkpoint at `path`, wherever its container keeps it."""
    with open_checkpoint(path) as checkpoint:
        if container == "safetensors":
            return json.loads(checkpoint.metadata["apr_recorded"])["history"]
        return [dict(entry) for entry in checkpoint.recorded.history]


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
@pytest.mark.falsifies("FALSIFY-STAMP-TRUTH-001")
@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_stamp_that_contradicts_the_tensors_is_refused_and_nothing_is_written(lie: Lie, destination: str) -> None:
    stamp(lie, "in place", lie.repair)
    before = files_below(lie.path.parent)
    with pytest.raises(RefusedError) as caught:
        stamp(lie, destination, LLAMA)
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"
    text = str(caught.value)
    assert lie.class_names["llama"] in text
    assert f"the tensors show {lie.class_names['qwen2']}" in text
    others = "" if lie.container == "gguf" else " --hf-architecture Qwen2ForCausalLM --hf-model-type qwen2"
    assert f"--architecture qwen2{others} " in text
    assert ("--in-place" in str(caught.value.remedy)) is (destination == "in place")
    assert files_below(lie.path.parent) == before


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
def test_a_false_identity_that_stays_is_refused_too(lie: Lie) -> None:
    with pytest.raises(RefusedError) as caught:
        stamp(lie, "output", StampChanges(license="MIT", data_source="the-stack"))
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"
    assert "--license MIT --data-source the-stack" in str(caught.value.remedy)
    assert not lie.output().exists()


def test_a_lie_can_be_forced_with_a_reason_that_stays_in_the_file(lie: Lie) -> None:
    result = stamp_file(lie.path, LLAMA, lie.output(), force_reason="a test corpus of lies")
    truth = next(finding for finding in result.findings if finding.id == "INV-STAMP-TRUTH-001")
    assert truth.status == "unchecked"
    assert "a test corpus of lies" in truth.message
    assert recorded_history(lie.output(), lie.container)[-1]["overrides"] == {
        "INV-STAMP-TRUTH-001": "a test corpus of lies"
    }


def test_a_name_twin_may_be_stamped_and_is_called_ambiguous(honest_llama: Path, tmp_path: Path) -> None:
    changes = StampChanges(hf_architecture="MistralForCausalLM", hf_model_type="mistral")
    result = stamp_file(honest_llama, changes, tmp_path / "mistral")
    truth = next(finding for finding in result.findings if finding.id == "INV-STAMP-TRUTH-001")
    assert truth.status == "pass"
    assert truth.message.startswith("ambiguous: ")
    assert "llama" in truth.message


@pytest.mark.parametrize(
    ("changes", "option", "suggestion"),
    [
        (StampChanges(architecture="qwen-22"), "--architecture", "qwen2"),
        (StampChanges(architecture="unknown"), "--architecture", None),
        (QWEN2._replace(hf_architecture="Qwen2ForCausalLm"), "--hf-architecture", "Qwen2ForCausalLM"),
        (QWEN2._replace(hf_model_type="Qwen2"), "--hf-model-type", "qwen2"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_ones(
    make_lie: Callable[[str], Lie], changes: StampChanges, option: str, suggestion: str | None
) -> None:
    lie = make_lie("apr-typed-only")
    with pytest.raises(RefusedError) as caught:
        stamp(lie, "output", changes)
    assert option in str(caught.value.found)
    if suggestion is not None:
        assert suggestion in str(caught.value.found).partition("nearest known")[2]
    assert not lie.output().exists()


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
@pytest.mark.parametrize(
    "changes",
    [
        StampChanges(architecture="qwen2"),
        StampChanges(hf_architecture="Qwen2ForCausalLM"),
        StampChanges(hf_model_type="qwen2"),
        StampChanges(architecture="qwen2", hf_architecture="LlamaForCausalLM", hf_model_type="qwen2"),
    ],
)
def test_partial_stamps_that_leave_a_contradiction_are_refused_with_the_whole_command(
    make_lie: Callable[[str], Lie], changes: StampChanges
) -> None:
    lie = make_lie("apr")
    with pytest.raises(RefusedError) as caught:
        stamp(lie, "output", changes)
    assert caught.value.invariant == "INV-STAMP-AGREE-001"
    assert len(caught.value.findings) >= 1
    assert "llama" in str(caught.value.found).lower()
    assert caught.value.remedy == (
        f"apr stamp {lie.path} --architecture qwen2 --hf-architecture Qwen2ForCausalLM --hf-model-type qwen2 "
        f"-o {lie.output()}"
    )


def test_a_disagreement_cannot_be_forced(make_lie: Callable[[str], Lie]) -> None:
    with pytest.raises(RefusedError) as caught:
        stamp(make_lie("apr"), "output", StampChanges(hf_model_type="qwen2"), force_reason="let me")
    assert caught.value.invariant == "INV-STAMP-AGREE-001"


def test_a_partial_stamp_is_enough_where_nothing_contradicts_it(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr-typed-only")
    result = stamp_file(lie.path, StampChanges(architecture="Qwen2ForCausalLM"), lie.output())
    assert "'qwen2'" in result.notes[0]
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.metadata["architecture"] == "qwen2"
        assert give_verdict(checkpoint).kind is VerdictKind.MATCH


def test_an_architecture_slug_alone_says_nothing_in_a_directory(make_lie: Callable[[str], Lie]) -> None:
    from apr.errors import UsageError

    with pytest.raises(UsageError, match="--architecture cannot be stamped") as caught:
        stamp(make_lie("hf"), "output", StampChanges(architecture="qwen2"))
    assert "--hf-architecture" in str(caught.value.found)


def test_an_architecture_slug_beside_the_others_is_checked_in_a_directory_too(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("hf")
    with pytest.raises(RefusedError) as caught:
        stamp(lie, "output", QWEN2._replace(architecture="gpt2"))
    assert caught.value.invariant == "INV-STAMP-AGREE-001"
    assert "--architecture = 'gpt2'" in str(caught.value.found)
    result = stamp_file(lie.path, QWEN2, lie.output())
    assert any("--architecture was checked and not written" in note for note in result.notes)


def test_upstreams_free_text_family_follows_the_stamps(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr")
    with open_checkpoint(lie.path) as before:
        assert before.metadata["model_type"] == "llama"
    with open_checkpoint(stamp(lie, "output", QWEN2)) as after:
        assert after.metadata["model_type"] == "qwen2"


def test_a_directory_keeps_every_other_key_and_its_order(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("hf")
    before = json.loads((lie.path / "config.json").read_text())
    (lie.path / "README.md").write_text("kept")
    (lie.path / "original").mkdir()
    (lie.path / "original" / "params.json").write_text("{}")
    output = stamp(lie, "output", QWEN2)
    after = json.loads((output / "config.json").read_text())
    assert list(after) == [key for key in before if key != "attention_bias"]
    assert after["torch_dtype"] == before["torch_dtype"]
    assert (output / "README.md").read_text() == "kept"
    assert (output / "original" / "params.json").read_text() == "{}"


def test_a_dry_run_shows_the_difference_and_writes_nothing(lie: Lie) -> None:
    before = files_below(lie.path.parent)
    for destination in ({"output": lie.output()}, {"in_place": True}):
        result = stamp_file(lie.path, lie.repair, dry_run=True, **destination)
        assert result.is_dry_run
        assert result.output_bytes is None
        assert any(change.new in ("qwen2", "Qwen2ForCausalLM", ["Qwen2ForCausalLM"]) for change in result.changes)
    assert files_below(lie.path.parent) == before


def test_a_second_stamp_in_place_has_nothing_to_write(lie: Lie) -> None:
    stamp(lie, "in place", lie.repair)
    before = files_below(lie.path.parent)
    result = stamp_file(lie.path, lie.repair, in_place=True)
    assert result.changes == ()
    assert "every stamp stands there already; nothing was written" in result.notes
    assert files_below(lie.path.parent) == before


def test_a_file_without_a_footer_is_stamped_and_gets_one(make_lie: Callable[[str], Lie]) -> None:
    lie = make_lie("apr-typed-only")
    lie.path.write_bytes(lie.path.read_bytes()[:-4])
    before = stored_digests(lie.path)
    result = stamp_file(lie.path, QWEN2, lie.output())
    assert any("no footer" in note for note in result.notes)
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.problems == ()
    assert stored_digests(result.output) == before
