"""A file of ours has room for its first stamp: one small region is written, nothing moves, on any file system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from apr.convert.exporting import ExportFormat, export_checkpoint
from apr.convert.importing import import_checkpoint
from apr.formats.apr2.layout import HEADER_BYTES, unpack_header
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.write import write_safetensors
from apr.formats.writing import STAMP_SLACK_BYTES, copy_of
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.stamping.conftest import stored_digests
from tests.stamping.replay import recorded

FIRST = StampChanges(
    "qwen2",
    "Qwen2ForCausalLM",
    "qwen2",
    license="Apache-2.0",
    data_source="a corpus with a name of ordinary length",
    data_license="CC-BY-4.0",
)
MOVES = {"insert_range", "collapse_range", "copy_range", "exchange", "rename"}


def imported(source: Path, folder: Path) -> Path:
    return import_checkpoint(source, folder / "model.apr").output


def exported(source: Path, folder: Path) -> Path:
    return export_checkpoint(imported(source, folder), folder / "m.safetensors", format=ExportFormat.SAFETENSORS).output


def exported_directory(source: Path, folder: Path) -> Path:
    output = export_checkpoint(imported(source, folder), folder / "hf", format=ExportFormat.HF).output
    return output / "model.safetensors"


def streamed_anew(source: Path, folder: Path) -> Path:
    """A stamped copy of a file without a footer, which is written by our writer."""
    old = imported(source, folder)
    old.write_bytes(old.read_bytes()[:-4])
    return stamp_file(old, StampChanges(settings={"note": "x"}), folder / "anew.apr").output


@pytest.mark.parametrize("make", [imported, exported, exported_directory, streamed_anew])
def test_the_first_stamp_of_a_file_of_ours_moves_nothing(
    make: Callable[[Path, Path], Path], honest_qwen2: Path, tmp_path: Path
) -> None:
    path = make(honest_qwen2, tmp_path)
    digests, size_bytes = stored_digests(path), path.stat().st_size
    with recorded(path.parent) as steps:
        stamp_file(path, FIRST, in_place=True)
    assert not MOVES & {step.operation for step in steps}
    writes = [step for step in steps if step.operation == "write" and step.path == path.name]
    assert [step.arguments[1] for step in writes] == [0, size_bytes - 4][: len(writes)]
    assert path.stat().st_size == size_bytes
    assert stored_digests(path) == digests


def test_the_recorded_size_of_the_metadata_stays_exact(honest_qwen2: Path, tmp_path: Path) -> None:
    data = imported(honest_qwen2, tmp_path).read_bytes()
    header = unpack_header(data[:HEADER_BYTES])
    end = HEADER_BYTES + header.metadata_size_bytes
    assert data[end - 1 : end] == b"}"
    assert header.index_offset_bytes - end >= STAMP_SLACK_BYTES
    assert not any(data[end : header.index_offset_bytes])


@pytest.mark.parametrize("slack_bytes", [0, 1, 4096])
@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "note": 'ü}"{'}], ids=["without", "with"])
def test_spaces_in_a_safetensors_header_are_read_over_by_the_official_reader(
    honest_qwen2: Path, tmp_path: Path, slack_bytes: int, metadata: dict[str, str]
) -> None:
    path = tmp_path / "x.safetensors"
    with open_checkpoint(honest_qwen2) as checkpoint:
        tensors = [copy_of(entry) for entry in checkpoint.tensors.values()]
        digests = write_safetensors(
            path, tensors=tensors, metadata=metadata, metadata_slack_bytes=slack_bytes
        ).tensor_digests
    assert stored_digests(path) == digests
    with safe_open(path, "np") as file:
        assert (file.metadata() or {}) == metadata
        assert set(file.keys()) == set(digests)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + length) % 8 == 0


def test_slack_is_given_by_the_producer_and_not_by_the_writers(tmp_path: Path) -> None:
    import inspect

    from apr.formats.apr2.write import write_apr2
    from apr.formats.hf.write import write_hf_directory

    def default(writer: Callable[..., object]) -> int:
        return int(inspect.signature(writer).parameters["metadata_slack_bytes"].default)

    assert (default(write_apr2), default(write_safetensors)) == (0, 0)
    assert default(write_hf_directory) == STAMP_SLACK_BYTES
