"""Stamping GGUF files: other people's readers find what was stamped, every tensor byte where it belongs, and the way
back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from apr.cli.main import run
from apr.errors import DamagedFileError, RefusedError, UsageError
from apr.formats.gguf.layout import is_padding
from apr.formats.gguf.read import Metadata
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.fleet import find_checkpoints
from apr.stamping.patch import stamp_file
from apr.stamping.result import StampResult
from tests.stamping.conftest import Lie, files_below, stored_digests

FORCE = "stamped whatever the tensors say"
QWEN2 = StampChanges(architecture="qwen2")


def stamp(path: Path, changes: StampChanges, **options: Any) -> StampResult:
    return stamp_file(path, changes, **{"in_place": True, "force_reason": FORCE, **options})


def fields(path: Path) -> dict[str, Any]:
    """What the official reader finds, without padding."""
    from gguf import GGUFReader

    found = GGUFReader(path).fields.items()
    return {key: field.contents() for key, field in found if not key.startswith("GGUF.") and not is_padding(key)}


def field_types(path: Path) -> dict[str, list[Any]]:
    from gguf import GGUFReader

    return {key: field.types for key, field in GGUFReader(path).fields.items() if not is_padding(key)}


def tensors(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor as the official reader finds them, after its rules were checked."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    assert reader.data_offset % reader.alignment == 0
    assert all(tensor.data_offset % reader.alignment == 0 for tensor in reader.tensors)
    return {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}


@pytest.fixture
def lie(make_lie: Callable[[str], Lie]) -> Lie:
    """Qwen2 tensors, some quantised, in a file that says llama."""
    return make_lie("gguf")


@pytest.mark.interop
@pytest.mark.falsifies("FALSIFY-STAMP-BYTES-001")
@pytest.mark.parametrize("destination", ["output", "in place"])
def test_the_official_reader_finds_the_stamps_and_every_tensor_as_it_was(lie: Lie, destination: str) -> None:
    before, held, types = fields(lie.path), tensors(lie.path), field_types(lie.path)
    original = files_below(lie.path)
    changes = StampChanges(
        architecture="qwen2",
        license="apache-2.0",
        data_source="the data",
        data_license="CC-BY-4.0",
        settings={
            "qwen2.rope.freq_base": 12345,
            "tokenizer.ggml.eos_token_id": 3,
            "tokenizer.ggml.token_type": [4] * 320,
            "tokenizer.chat_template": "{{ longer }}" * 10,
            "general.tags": ["a", "ü"],
            "general.note": "x",
        },
    )
    if destination == "output":
        path = stamp(lie.path, changes, in_place=False, output=lie.output()).output
        assert files_below(lie.path) == original
    else:
        path = stamp(lie.path, changes).output
    assert tensors(path) == held
    after = fields(path)
    history = json.loads(after.pop("apr.history"))
    expected = {key.replace("llama.", "qwen2."): value for key, value in before.items()}
    assert after == {
        **expected,
        "general.architecture": "qwen2",
        "general.license": "Apache-2.0",
        "apr.data_source": "the data",
        "apr.data_license": "CC-BY-4.0",
        "qwen2.rope.freq_base": 12345.0,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.token_type": [4] * 320,
        "tokenizer.chat_template": "{{ longer }}" * 10,
        "general.tags": ["a", "ü"],
        "general.note": "x",
    }
    new_types = field_types(path)
    assert all(new_types[key.replace("llama.", "qwen2.")] == kinds for key, kinds in types.items())
    assert [entry["action"] for entry in history] == ["stamp"]


@pytest.mark.falsifies("FALSIFY-STAMP-HISTORY-001")
def test_the_keys_below_the_architecture_go_with_it_and_come_back_with_an_undo(lie: Lie) -> None:
    before = fields(lie.path)
    with open_checkpoint(lie.path) as checkpoint:
        typed = dict(checkpoint.typed)
    result = stamp(lie.path, StampChanges(architecture="gemma", settings={"gemma.context_length": 64}))
    assert {change.key: (change.previous, change.new) for change in result.changes} == {
        "metadata: general.architecture": ("llama", "gemma"),
        "metadata keys: below": ("llama", "gemma"),
        "metadata: gemma.context_length": (128, 64),
    }
    with open_checkpoint(lie.path) as checkpoint:
        assert not [key for key in checkpoint.metadata if key.startswith("llama.")]
        assert checkpoint.typed == {**typed, "max_position_embeddings": 64}
    stamp(lie.path, StampChanges(), undo=True)
    after = fields(lie.path)
    entries = json.loads(after.pop("apr.history"))
    assert after == before
    assert [entry["action"] for entry in entries] == ["stamp", "undo"]
    with open_checkpoint(lie.path) as checkpoint:
        assert checkpoint.recorded.history[-1]["undoes"] == entries[0]["time"]
    with pytest.raises(RefusedError, match="no stamp is left to take back"):
        stamp(lie.path, StampChanges(), undo=True)


def test_a_file_whose_keys_stand_below_the_right_name_keeps_them_and_its_undo_does_too(lie: Lie) -> None:
    stamp(lie.path, QWEN2)
    honest = lie.path.read_bytes()
    only_the_stamp = honest.replace(b"\5\0\0\0\0\0\0\0qwen2", b"\5\0\0\0\0\0\0\0llama", 1)
    lie.path.write_bytes(only_the_stamp)
    before = fields(lie.path)
    assert (before["general.architecture"], before["qwen2.block_count"]) == ("llama", 2)
    result = stamp(lie.path, QWEN2)
    assert [change.key for change in result.changes] == ["metadata: general.architecture"]
    assert fields(lie.path)["qwen2.block_count"] == 2
    stamp(lie.path, StampChanges(), undo=True)
    assert {k: v for k, v in fields(lie.path).items() if k != "apr.history"} == {
        k: v for k, v in before.items() if k != "apr.history"
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (StampChanges("qwen2", settings={"qwen2.own": 1}), "qwen2.own"),
        (StampChanges("gemma", settings={"llama.context_length": 5}), "--set llama.context_length"),
    ],
)
def test_a_rename_that_would_meet_other_keys_is_refused(lie: Lie, changes: StampChanges, found: str) -> None:
    if changes.architecture == "qwen2":
        stamp(lie.path, StampChanges(settings=changes.settings))
    before = files_below(lie.path)
    with pytest.raises(UsageError, match="would meet others") as caught:
        stamp(lie.path, StampChanges(changes.architecture, settings=changes.settings))
    assert caught.value.found == found
    assert files_below(lie.path) == before


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("general.architecture", "use --architecture"),
        ("general.license", "use --license"),
        ("general.alignment", "convert the model again with that alignment"),
        ("apr.history", "not edited by hand"),
        ("apr.padding", "not edited by hand"),
        ("apr.data_source", "use --data-source"),
        ("Bad Key", "as GGUF names keys"),
        ("", "as GGUF names keys"),
    ],
)
def test_keys_that_others_look_after_cannot_be_set(lie: Lie, key: str, remedy: str) -> None:
    before = files_below(lie.path)
    with pytest.raises(UsageError, match="cannot be set") as caught:
        stamp(lie.path, StampChanges(settings={key: "x"}))
    assert remedy in str(caught.value.remedy)
    assert files_below(lie.path) == before


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        (StampChanges(hf_architecture="Qwen2ForCausalLM"), "add --architecture FAMILY"),
        (StampChanges(hf_model_type="qwen2"), "add --architecture FAMILY"),
        (StampChanges(license="MIT", tokenizer=Path()), "--set tokenizer.ggml.KEY=JSON"),
    ],
)
def test_stamps_that_gguf_has_no_place_for_are_refused(
    lie: Lie, tokenizer_directory: Path, changes: StampChanges, remedy: str
) -> None:
    if changes.tokenizer is not None:
        changes = StampChanges(license="MIT", tokenizer=tokenizer_directory)
    with pytest.raises(UsageError, match="cannot be stamped on this format") as caught:
        stamp(lie.path, changes)
    assert remedy in str(caught.value.remedy)


def test_class_and_model_type_beside_the_architecture_are_checked_and_not_written(lie: Lie) -> None:
    result = stamp(lie.path, StampChanges("qwen2", "Qwen2ForCausalLM", "qwen2"))
    assert any("checked and not written" in note for note in result.notes)
    with pytest.raises(RefusedError) as caught:
        stamp(lie.path, StampChanges("qwen2", "LlamaForCausalLM"))
    assert caught.value.invariant == "INV-STAMP-AGREE-001"


@pytest.mark.parametrize(
    ("given", "written"),
    [("qwen2_moe", "qwen2moe"), ("Qwen2ForCausalLM", "qwen2"), ("gpt_neox", "gptneox"), ("gemma3_text", "gemma3")],
)
def test_the_architecture_is_written_as_gguf_names_it(lie: Lie, given: str, written: str) -> None:
    result = stamp(lie.path, StampChanges(architecture=given))
    assert fields(lie.path)["general.architecture"] == written
    assert result.notes == (
        f"`general.architecture` is written as {written!r}, since that is GGUF's name for it; {given!r} was given",
    )
    assert result.stamped["architecture"] == written


def test_an_architecture_that_gguf_has_no_name_for_is_refused_with_the_nearest(lie: Lie) -> None:
    before = files_below(lie.path)
    with pytest.raises(RefusedError, match="no architecture that is known") as caught:
        stamp_file(lie.path, StampChanges(architecture="qwen2_of_my_own"), in_place=True)
    assert "nearest known: qwen2" in str(caught.value.found)
    assert "llama.cpp" in str(caught.value.expected)
    assert caught.value.remedy == f"apr stamp {lie.path} --architecture qwen2 --in-place"
    assert files_below(lie.path) == before


def test_auto_stamps_what_the_tensors_show_and_leaves_name_twins_to_the_user(lie: Lie) -> None:
    before = files_below(lie.path)
    with pytest.raises(RefusedError, match="do not decide") as caught:
        stamp_file(lie.path, StampChanges(), in_place=True, auto=True)
    assert "qwen2" in str(caught.value.found)
    assert files_below(lie.path) == before
    stamp_file(lie.path, StampChanges(hf_model_type="qwen2"), in_place=True, auto=True)
    assert fields(lie.path)["general.architecture"] == "qwen2"
    assert stamp_file(lie.path, StampChanges(), in_place=True, auto=True).changes == ()


@pytest.mark.planted_defect("INV-STAMP-TRUTH-001")
def test_without_a_reason_a_stamp_against_the_evidence_is_not_written(lie: Lie) -> None:
    before = files_below(lie.path)
    with pytest.raises(RefusedError) as caught:
        stamp_file(lie.path, StampChanges(architecture="gemma"), in_place=True)
    assert caught.value.invariant == "INV-STAMP-TRUTH-001"
    assert files_below(lie.path) == before


@pytest.mark.planted_defect("INV-STAMP-HISTORY-001")
def test_a_history_that_cannot_be_read_is_not_written_over(lie: Lie) -> None:
    stamp(lie.path, StampChanges(license="MIT"))
    data = lie.path.read_bytes()
    lie.path.write_bytes(data.replace(b'[{"action"', b'{{"action"', 1))
    before = files_below(lie.path)
    with pytest.raises(DamagedFileError, match="history of stamps cannot be read"):
        stamp(lie.path, StampChanges(license="Apache-2.0"))
    assert files_below(lie.path) == before


def test_a_dry_run_writes_nothing_and_a_stamp_that_stands_there_already_neither(lie: Lie) -> None:
    before = files_below(lie.path)
    result = stamp(lie.path, QWEN2, dry_run=True)
    assert [change.new for change in result.changes] == ["qwen2", "qwen2"]
    assert files_below(lie.path) == before
    stamp(lie.path, QWEN2)
    stamped = files_below(lie.path)
    assert stamp(lie.path, QWEN2).changes == ()
    assert files_below(lie.path) == stamped


def test_padding_is_not_shown_and_not_taken_for_a_value(lie: Lie) -> None:
    stamp(lie.path, StampChanges(license="MIT"))
    with open_checkpoint(lie.path) as checkpoint:
        assert isinstance(checkpoint.metadata, Metadata)
        assert [each.key for each in checkpoint.metadata.header.pairs if is_padding(each.key)] == ["apr.padding"]
        assert not any(is_padding(key) for key in checkpoint.metadata)


def test_a_fleet_stamps_gguf_files_beside_the_others(
    lie: Lie, lies: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(lies["safetensors"], lie.path.with_name("other.safetensors"))
    assert find_checkpoints([str(lie.path.parent)]) == [lie.path, lie.path.with_name("other.safetensors")]
    words = ["stamp", str(lie.path.parent), "--auto", "--hf-model-type", "qwen2", "--in-place", "--json"]
    assert run(words) == 0
    *outcomes, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {Path(each["path"]).suffix: each["status"] for each in outcomes} == {
        ".gguf": "stamped",
        ".safetensors": "stamped",
    }
    assert (summary["stamped"], summary["failed"]) == (2, 0)
    assert fields(lie.path)["qwen2.block_count"] == 2


class Stamped(RuleBasedStateMachine):
    """Stamps and undos in any order, checked with the official reader against a model of what the file should say."""

    source: Path
    folder: Path

    @initialize()
    def start(self) -> None:
        self.path = self.folder / "x.gguf"
        shutil.copy(self.source, self.path)
        self.tensors = tensors(self.path)
        self.says = [fields(self.path)]

    def put(self, changes: StampChanges, new: dict[str, Any]) -> None:
        now = {**self.says[-1], **new}
        stamp(self.path, changes)
        if now != self.says[-1]:
            self.says.append(now)

    @rule(key=st.sampled_from(["general.name", "tokenizer.chat_template", "note"]), length=st.integers(1, 20_000))
    def set_text(self, key: str, length: int) -> None:
        self.put(StampChanges(settings={key: "x" * length}), {key: "x" * length})

    @rule(values=st.lists(st.integers(-9, 9), min_size=1, max_size=4000).map(lambda values: [*values, -1]))
    def set_array(self, values: list[int]) -> None:
        self.put(StampChanges(settings={"tokenizer.ggml.token_type": values}), {"tokenizer.ggml.token_type": values})

    @rule(number=st.integers(0, 2**32 - 1))
    def set_number(self, number: int) -> None:
        key = f"{self.says[-1]['general.architecture']}.context_length"
        self.put(StampChanges(settings={key: number}), {key: number})

    @rule(license_=st.sampled_from(["MIT", "Apache-2.0"]))
    def set_license(self, license_: str) -> None:
        self.put(StampChanges(license=license_), {"general.license": license_})

    @rule(name=st.sampled_from(["llama", "qwen2", "gemma3n", "command-r"]))
    def rename(self, name: str) -> None:
        old, now = self.says[-1]["general.architecture"], self.says[-1]
        if old != name:
            renamed = {key.replace(f"{old}.", f"{name}."): value for key, value in now.items()}
            stamp(self.path, StampChanges(architecture=name))
            self.says.append({**renamed, "general.architecture": name})

    @rule()
    def undo(self) -> None:
        if len(self.says) > 1:
            stamp(self.path, StampChanges(), undo=True)
            self.says.pop()

    @invariant()
    def file_says_what_it_should(self) -> None:
        if hasattr(self, "path"):
            assert tensors(self.path) == self.tensors
            found = fields(self.path)
            found.pop("apr.history", None)
            assert found == self.says[-1]
            assert [path.name for path in self.folder.iterdir()] == [self.path.name]


def test_the_file_says_what_it_should_after_any_sequence_of_stamps_and_undos(
    lies: dict[str, Path], tmp_path: Path
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (Stamped,), {"source": lies["gguf"], "folder": tmp_path})
    few = settings(
        max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=few)


@pytest.mark.interop
def test_a_file_that_was_never_stamped_reads_the_same_with_both_readers(lie: Lie) -> None:
    from gguf import GGUFReader

    theirs = {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(lie.path).tensors}
    with open_checkpoint(lie.path) as checkpoint:
        assert {name: entry.read_bytes() for name, entry in checkpoint.tensors.items()} == theirs
        assert np.prod(checkpoint.tensors["blk.0.attn_q.weight"].shape) == 64 * 64
    assert len(stored_digests(lie.path)) == len(theirs)
