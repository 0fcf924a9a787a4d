"""Whatever stamps and undos a file goes through, it keeps the layout that other people's readers count on."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from safetensors import safe_open

from apr.errors import AprError, InputOutputError, RefusedError
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import QWEN2, Lie, files_below, force_reason, stored_digests

TEXTS = st.text(st.characters(codec="utf-8"), max_size=50) | st.integers(0, 20_000).map("x".__mul__)
HEADER = struct.Struct("<4sBBHIQIQQ")


def check_apr_rules(data: bytes) -> None:
    """The rules of APR v2, from its description and not through our reader."""
    magic, major, minor, _, count, metadata_at, metadata_size, index_at, data_at = HEADER.unpack_from(data)
    assert (magic, major, minor, metadata_at) == (b"APR\0", 2, 0, 64)
    assert zlib.crc32(data[44:64], zlib.crc32(data[:40])) == int.from_bytes(data[40:44], "little")
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    assert metadata_size <= 16 << 20
    assert index_at % 64 == data_at % 64 == 0
    assert 64 + metadata_size <= index_at <= data_at
    assert isinstance(json.loads(data[64 : 64 + metadata_size]), dict)
    assert not any(data[64 + metadata_size : index_at])
    names, position = [], index_at
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, position)
        names.append(data[position + 2 : position + 2 + length])
        rank = data[position + 3 + length]
        offset, size = struct.unpack_from("<QQ", data, position + 4 + length + 8 * rank)
        assert offset % 64 == 0
        assert data_at + offset + size <= len(data) - 4
        position += 4 + length + 8 * rank + 16
    assert names == sorted(names)
    assert position <= data_at


def check_safetensors_rules(path: Path) -> None:
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            assert file.get_tensor(name).size
        assert all(isinstance(text, str) for text in (file.metadata() or {}).values())
    with path.open("rb") as raw:
        assert (8 + int.from_bytes(raw.read(8), "little")) % 8 == 0


class Stamped(RuleBasedStateMachine):
    """Stamps of any size, undos, and a file that must keep its rules and its tensors after each."""

    container = "apr"
    source: Path
    folder: Path

    @initialize()
    def start(self) -> None:
        self.path = self.folder / self.source.name
        shutil.copy(self.source, self.path)
        stamp_file(self.path, QWEN2, in_place=True)
        self.digests = stored_digests(self.path)

    @rule(key=st.sampled_from("abc"), value=TEXTS)
    def set_key(self, key: str, value: str) -> None:
        with suppress(RefusedError):  # An undo brought the lie back, and a lie is not sealed with more stamps.
            stamp_file(self.path, StampChanges(settings={f"key_{key}": value}), in_place=True)

    @rule(license_=st.sampled_from(["MIT", "Apache-2.0", "CC-BY-4.0"]))
    def set_license(self, license_: str) -> None:
        with suppress(RefusedError):
            stamp_file(self.path, StampChanges(license=license_), in_place=True)

    @rule()
    def undo(self) -> None:
        with suppress(RefusedError):  # No stamp is left to take back.
            stamp_file(self.path, StampChanges(), in_place=True, undo=True)

    @invariant()
    def rules_hold(self) -> None:
        if hasattr(self, "path"):
            if self.path.suffix == ".apr":
                check_apr_rules(self.path.read_bytes())
            else:
                check_safetensors_rules(self.path)
            assert stored_digests(self.path) == self.digests
            assert [path.name for path in self.folder.iterdir()] == [self.path.name]


@pytest.mark.parametrize("container", ["apr", "apr-typed-only", "safetensors"])
def test_the_rules_hold_after_any_sequence_of_stamps_and_undos(
    lies: dict[str, Path], tmp_path: Path, container: str
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (Stamped,), {"source": lies[container], "folder": tmp_path})
    few = settings(
        max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=few)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"note": "ü" * 500}])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_safetensors_header_of_any_form_keeps_its_tensors(
    tmp_path: Path, lies: dict[str, Path], metadata: dict[str, str] | None, where: str
) -> None:
    source = lies["safetensors"].read_bytes()
    length = int.from_bytes(source[:8], "little")
    document = json.loads(source[8 : 8 + length])
    document.pop("__metadata__")
    texts = {} if metadata is None else {"__metadata__": metadata}
    document = {**texts, **document} if where == "first" else {**document, **texts}
    header = json.dumps(document, indent=1 if where == "last" else None).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + source[8 + length :])
    digests = stored_digests(path)
    for changes in (QWEN2, StampChanges(license="MIT"), StampChanges(settings={"n": "y" * 9000})):
        stamp_file(path, changes, in_place=True)
        check_safetensors_rules(path)
        assert stored_digests(path) == digests
        with safe_open(path, "np") as file:
            assert {**(metadata or {}), "hf_model_type": "qwen2"}.items() <= file.metadata().items()


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB that cannot make room inside a file; skipped where mounting is not allowed."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=False)


@pytest.mark.parametrize("container", ["apr", "safetensors", "hf", "gguf"])
def test_where_no_room_can_be_made_a_changed_copy_takes_the_place(
    lies: dict[str, Path], other_disk: Path, container: str
) -> None:
    path = other_disk / lies[container].name
    shutil.copytree(lies[container], path) if lies[container].is_dir() else shutil.copy(lies[container], path)
    digests, reason = stored_digests(path), force_reason(container)
    stamp_file(path, QWEN2, in_place=True, force_reason=reason)
    stamp_file(path, StampChanges(settings={"note": "x" * 20_000}), in_place=True, force_reason=reason)
    assert stored_digests(path) == digests
    assert [each.name for each in other_disk.iterdir()] == [path.name]
    if container == "apr":
        check_apr_rules(path.read_bytes())


@pytest.mark.planted_defect("INV-STAMP-ATOMIC-001")
@pytest.mark.parametrize("container", ["apr", "safetensors", "gguf"])
def test_a_disk_that_is_really_full_leaves_the_file_as_it_was(
    lies: dict[str, Path], other_disk: Path, container: str
) -> None:
    path = other_disk / lies[container].name
    shutil.copy(lies[container], path)
    filler = os.open(other_disk / "filler", os.O_CREAT | os.O_WRONLY)
    for size in (1 << 16, 1 << 12):
        with suppress(OSError):
            while True:
                os.write(filler, bytes(size))
    os.close(filler)
    before = files_below(other_disk)
    with pytest.raises(InputOutputError) as caught:
        stamp_file(path, QWEN2, in_place=True, force_reason=force_reason(container))
    assert caught.value.exit_code == 7
    assert files_below(other_disk) == before


@pytest.mark.parametrize(("container", "growth_bytes"), [("apr", -100), ("apr", 100), ("gguf", -100)])
def test_a_file_that_changes_size_meanwhile_is_left_alone(
    make_lie: Callable[[str], Lie], monkeypatch: pytest.MonkeyPatch, container: str, growth_bytes: int
) -> None:
    lie = make_lie(container)
    size_bytes = lie.path.stat().st_size + growth_bytes
    from apr.stamping import in_place

    lock = in_place.lock_alone

    def lock_and_resize(*arguments: object) -> None:
        lock(*arguments)  # type: ignore[arg-type]
        os.truncate(lie.path, size_bytes)

    monkeypatch.setattr(in_place, "lock_alone", lock_and_resize)
    with pytest.raises(AprError) as caught:
        stamp_file(lie.path, QWEN2, in_place=True, force_reason=lie.force_reason)
    assert caught.value.exit_code in (4, 7)
    assert lie.path.stat().st_size == size_bytes
    assert [path.name for path in lie.path.parent.iterdir()] == [lie.path.name]
