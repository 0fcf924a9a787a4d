"""GGUF models in several files, as gguf's own writer splits them: read as one, stamped in the first, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from apr.errors import UsageError
from apr.formats.gguf.layout import is_padding
from apr.formats.registry import open_checkpoint
from apr.stamping.changes import StampChanges
from apr.stamping.fleet import find_checkpoints
from apr.stamping.patch import stamp_file
from tests.identity.gguf_models import Shapes, metadata_of, model_of, write_gguf
from tests.serving import ModelServer

MODEL = model_of("qwen2")
COUNT = 3


def write_parts(directory: Path, shapes: Shapes, metadata: dict[str, Any], *, keys_alone: bool = False) -> list[Path]:
    """The model by gguf's own writer, in `COUNT` parts; keys_alone: no tensor in the first of them."""
    directory.mkdir()
    most = -(-len(shapes) // (COUNT - 1 if keys_alone else COUNT))
    write_gguf(directory / "model.gguf", shapes, metadata, split_max_tensors=most, small_first_shard=keys_alone)
    parts = sorted(directory.glob("*.gguf"))
    assert [part.name for part in parts] == [f"model-{at:05d}-of-{COUNT:05d}.gguf" for at in range(1, COUNT + 1)]
    return parts


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("gguf") / "parts", MODEL.shapes, metadata_of(MODEL))[0].parent


@pytest.fixture
def parts(healthy: Path, tmp_path: Path) -> list[Path]:
    return sorted(Path(shutil.copytree(healthy, tmp_path / "parts")).glob("*.gguf"))


def contradictions(path: Path) -> list[tuple[str, str, str]]:
    with open_checkpoint(path) as checkpoint:
        return [(problem.what, problem.expected, problem.found) for problem in checkpoint.contradictions]


Preflight = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def preflight(capsys: pytest.CaptureFixture[str]) -> Preflight:
    def call(path: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run(["preflight", str(path), "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize("at", range(COUNT))
def test_whichever_part_is_named_the_whole_model_is_read(parts: list[Path], preflight: Preflight, at: int) -> None:
    with open_checkpoint(parts[at]) as checkpoint:
        assert checkpoint.tensors.keys() == MODEL.shapes.keys()
        assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == dict(MODEL.shapes)
        assert checkpoint.path == parts[0]
        assert checkpoint.size_bytes == sum(part.stat().st_size for part in parts)
        assert checkpoint.contradictions == ()
    code, document = preflight(parts[at], "--deep")
    assert code == 0, document["findings"]
    assert document["claimed"]["architecture"]["gguf_architecture"] == "qwen2"


def test_a_first_part_without_tensors_is_a_model_too(tmp_path: Path, preflight: Preflight) -> None:
    first, *_ = write_parts(tmp_path / "parts", MODEL.shapes, metadata_of(MODEL), keys_alone=True)
    assert preflight(first)[0] == 0


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
@pytest.mark.parametrize("at", range(COUNT))
def test_a_part_that_is_missing_is_named(parts: list[Path], preflight: Preflight, at: int) -> None:
    parts[at].unlink()
    named = parts[0 if at else 1]
    assert preflight(named)[0] == 5
    assert contradictions(named) == [
        ("1 of the 3 parts of the model are not there", "3 files side by side", f"no {parts[at].name}")
    ]


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_parts_under_each_other_s_names_are_refused(parts: list[Path], preflight: Preflight) -> None:
    aside = parts[1].with_suffix(".aside")
    parts[1].rename(aside), parts[2].rename(parts[1]), aside.rename(parts[2])
    assert contradictions(parts[0]) == [
        ("a part of the model says that it is another one", "1", "2"),
        ("a part of the model says that it is another one", "2", "1"),
    ]
    assert preflight(parts[0])[0] == 5


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_part_of_another_model_is_refused(parts: list[Path], tmp_path: Path, preflight: Preflight) -> None:
    fewer = dict(list(MODEL.shapes.items())[:-1])
    shutil.copy(write_parts(tmp_path / "other", fewer, metadata_of(MODEL))[2], parts[2])
    stored, stated = len(fewer), len(MODEL.shapes)
    what = "the parts do not hold as many tensors as they were split from"
    assert contradictions(parts[0]) == [(what, str(stated), str(stored))]
    assert preflight(parts[0])[0] == 5


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_tensor_in_two_parts_is_refused(parts: list[Path]) -> None:
    with open_checkpoint(parts[0]) as checkpoint:
        first = next(name for name, entry in checkpoint.tensors.items() if entry.file.path == parts[0])
        others = [name for name, entry in checkpoint.tensors.items() if entry.file.path == parts[1]]
    other = next(name for name in others if len(name) == len(first))
    parts[1].write_bytes(parts[1].read_bytes().replace(other.encode(), first.encode()))
    what = [what for what, *_ in contradictions(parts[0])]
    assert what == ["a tensor stands in two parts of the model"]


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_part_under_a_name_that_leads_to_no_others_is_refused(parts: list[Path], preflight: Preflight) -> None:
    alone = parts[0].rename(parts[0].with_name("renamed.gguf"))
    assert preflight(alone)[0] == 5
    ((what, expected, found),) = contradictions(alone)
    assert what == "the file is one part of a split model, and its name does not say where the others are"
    assert "llama-gguf-split --merge" in expected
    assert found == "part 1 of 3, named renamed.gguf"


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_part_cut_short_is_refused(parts: list[Path], preflight: Preflight) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-4096])
    assert preflight(parts[0])[0] == 5


@pytest.mark.parametrize("at", range(COUNT))
def test_a_stamp_changes_the_first_part_and_is_taken_back(parts: list[Path], at: int) -> None:
    before = [part.read_bytes() for part in parts]
    result = stamp_file(parts[at], StampChanges(license="MIT"), in_place=True)
    assert result.output == parts[0]
    assert any("stand in the first" in note for note in result.notes) == bool(at)
    assert [part.read_bytes() for part in parts[1:]] == before[1:]
    with open_checkpoint(parts[0]) as checkpoint:
        assert checkpoint.metadata["general.license"] == "MIT"
        assert checkpoint.contradictions == ()
    stamp_file(parts[at], StampChanges(), in_place=True, undo=True)
    with open_checkpoint(parts[0]) as checkpoint:
        assert "general.license" not in checkpoint.metadata
        assert [key for key in checkpoint.metadata if is_padding(key)] == []


def test_the_official_reader_opens_the_first_part_after_a_stamp_with_its_tensors_untouched(parts: list[Path]) -> None:
    from gguf import GGUFReader

    def stored(path: Path) -> dict[str, bytes]:
        return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}

    before = [stored(part) for part in parts]
    stamp_file(parts[0], StampChanges(license="MIT", data_source="a" * 9000), in_place=True)
    assert [stored(part) for part in parts] == before


def test_a_copy_of_a_model_in_parts_is_refused_with_the_way_out(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a model in 3 files is stamped where it stands") as caught:
        stamp_file(parts[0], StampChanges(license="MIT"), tmp_path / "out.gguf")
    assert "llama-gguf-split --merge" in str(caught.value.remedy)
    assert not (tmp_path / "out.gguf").exists()


def test_a_fleet_counts_a_model_in_parts_once(parts: list[Path], tmp_path: Path) -> None:
    assert find_checkpoints([str(parts[0].parent)]) == [parts[0]]
    assert find_checkpoints(map(str, parts)) == [parts[0]]
    assert find_checkpoints([str(parts[2])]) == [parts[2]]


def test_parts_on_another_machine_are_found_by_their_names(parts: list[Path], preflight: Preflight) -> None:
    with ModelServer(parts[0].parent).running() as server:
        code, document = preflight(f"{server.url}/{parts[1].name}")
        assert code == 0, document["findings"]
        assert {path.rpartition("/")[2] for path, _ in server.requests} == {part.name for part in parts}
        parts[2].unlink()
        assert preflight(f"{server.url}/{parts[0].name}")[0] == 5
