"""A stamp in place that is cut off at any instant leaves a checkpoint that is as before, or as after."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from apr.errors import DamagedFileError, InputOutputError
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from apr.storage import operations
from apr.storage.journal import journal_of_directory, journal_of_file
from tests.stamping.conftest import QWEN2, Lie, files_below, stored_digests
from tests.stamping.replay import Step, copied, cut_disks, recorded, replay

CONTAINERS = ("apr", "apr-typed-only", "hf", "safetensors", "gguf")
GROWTH = {"fits": {"note": "z"}, "grows": {"note": "x" * 3000}, "grows by blocks": {"note": "y" * 20_000}}


def changes(growth: str) -> StampChanges:
    return StampChanges("qwen2", "Qwen2ForCausalLM", "qwen2", settings=GROWTH[growth])


def opened_bytes(folder: Path, name: str) -> dict[str, bytes]:
    """All bytes of the folder after the checkpoint in it was opened, which settles what was interrupted."""
    with open_checkpoint(folder / name) as checkpoint:
        assert checkpoint.tensors
    return files_below(folder)


def steps_of_a_stamp(lie: Lie, growth: str) -> list[Step]:
    """The steps that stamp `lie` where it stands."""
    with recorded(lie.path.parent) as steps:
        stamp_file(lie.path, changes(growth), in_place=True, force_reason=lie.force_reason)
    return steps


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.falsifies("FALSIFY-STAMP-ATOMIC-001")
@pytest.mark.parametrize("growth", GROWTH)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_prefix_of_the_writes_reads_as_before_or_as_after(
    make_lie: Callable[[str], Lie], tmp_path: Path, container: str, growth: str
) -> None:
    lie = make_lie(container)
    work, name = lie.path.parent, lie.path.name
    if growth == "fits":
        stamp_file(lie.path, QWEN2, in_place=True, force_reason=lie.force_reason)
    original = copied(work, tmp_path / "original")
    before, digests = files_below(work), stored_digests(lie.path)
    with recorded(work) as steps:
        stamp_file(lie.path, changes(growth), in_place=True, force_reason=lie.force_reason)
    after = files_below(work)
    assert after != before
    assert stored_digests(lie.path) == digests
    has_room = any(step.operation == "insert_range" for step in steps)
    assert has_room == (growth != "fits" and container != "hf")
    seen = set()
    for number, disk in enumerate(cut_disks(steps)):
        folder = copied(original, tmp_path / "cut")
        replay(disk, folder)
        found = opened_bytes(folder, name)
        assert found in (before, after), (number, [step[:2] for step in disk])
        seen.add(found == after)
    assert seen == {False, True}


def test_who_opens_it_next_finishes_the_stamp_and_says_so(
    make_lie: Callable[[str], Lie], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lie = make_lie("apr")
    original = copied(lie.path.parent, tmp_path / "original")
    steps = steps_of_a_stamp(lie, "grows")
    committed = next(at for at, step in enumerate(steps) if step.operation == "insert_range")
    for cut, outcome in ((1, "taken back: nothing had been changed yet"), (committed + 1, "finished")):
        folder = copied(original, tmp_path / "cut")
        replay(steps[:cut], folder)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="apr"):
            opened_bytes(folder, lie.path.name)
        assert caplog.messages == [f"an interrupted stamp of {folder / lie.path.name} was {outcome}"]


def test_a_stamp_too_settles_what_was_interrupted_before(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("safetensors")
    original = copied(lie.path.parent, tmp_path / "original")
    steps = steps_of_a_stamp(lie, "grows")
    replay(steps[:-1], original)
    assert journal_of_file(original / lie.path.name).exists()
    result = stamp_file(original / lie.path.name, StampChanges(license="MIT"), in_place=True)
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "Qwen2ForCausalLM"
        assert checkpoint.metadata["license"] == "MIT"
    assert [path.name for path in original.iterdir()] == [lie.path.name]


def test_a_journal_that_cannot_be_finished_because_the_disk_is_full_is_taken_back(
    make_lie: Callable[[str], Lie], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = make_lie("apr")
    original = copied(lie.path.parent, tmp_path / "original")
    before = files_below(original)
    steps = steps_of_a_stamp(lie, "grows")
    replay(steps[:-2], original)
    write = operations.write

    def full(descriptor: int, data: bytes, offset_bytes: int) -> None:
        if len(data) > 3000:
            raise OSError(28, "No space left on device")
        write(descriptor, data, offset_bytes)

    monkeypatch.setattr(operations, "write", full)
    with pytest.raises(InputOutputError):
        opened_bytes(original, lie.path.name)
    monkeypatch.setattr(operations, "write", write)
    assert opened_bytes(original, lie.path.name) != before


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
def test_a_journal_beside_another_file_is_not_carried_out(make_lie: Callable[[str], Lie], tmp_path: Path) -> None:
    lie = make_lie("apr")
    original = copied(lie.path.parent, tmp_path / "original")
    steps = steps_of_a_stamp(lie, "grows")
    replay([step for step in steps if step.path.endswith(".apr-journal")][:-1], original)
    other = original / lie.path.name
    data = bytearray(other.read_bytes())
    data[70] ^= 1
    other.write_bytes(data)
    with pytest.raises(DamagedFileError, match="does not fit") as caught:
        open_checkpoint(other)
    assert str(journal_of_file(other)) in str(caught.value.remedy)
    assert other.read_bytes() == data


@pytest.mark.parametrize("target", ["../outside", "other.apr"])
def test_a_journal_does_not_lead_to_other_files(make_lie: Callable[[str], Lie], tmp_path: Path, target: str) -> None:
    from apr.storage.journal import encode_journal
    from apr.storage.patches import Change, Replacement

    lie = make_lie("apr")
    journal = journal_of_file(lie.path)
    journal.write_bytes(encode_journal(Change((), (Replacement(target, None, b"planted"),))))
    if target == "other.apr":
        with pytest.raises(DamagedFileError, match="does not fit"):
            open_checkpoint(lie.path)
    else:
        open_checkpoint(lie.path).close()
    assert not (lie.path.parent / target).exists()


def test_a_directory_is_settled_too_when_one_of_its_files_is_opened_alone(
    make_lie: Callable[[str], Lie], tmp_path: Path
) -> None:
    lie = make_lie("hf")
    original = copied(lie.path.parent, tmp_path / "original")
    steps = steps_of_a_stamp(lie, "fits")
    last_rename = max(at for at, step in enumerate(steps) if step.operation == "rename")
    replay(steps[:last_rename], original)
    directory = original / lie.path.name
    assert journal_of_directory(directory).exists()
    open_checkpoint(directory / "model.safetensors").close()
    assert not journal_of_directory(directory).exists()
    assert "Qwen2ForCausalLM" in (directory / "config.json").read_text()


def test_nothing_is_left_beside_a_stamped_checkpoint(lie: Lie) -> None:
    names = {path.relative_to(lie.path.parent) for path in lie.path.parent.rglob("*")}
    stamp_file(lie.path, QWEN2, in_place=True)
    new = {path.relative_to(lie.path.parent) for path in lie.path.parent.rglob("*")} - names
    assert all(path.name == "apr.json" for path in new)
