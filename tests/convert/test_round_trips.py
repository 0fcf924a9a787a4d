"""INV-GENERATION-001 for conversions: the second generation carries what the first carried, on every way round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apr.convert.exporting import export_checkpoint
from apr.convert.importing import import_checkpoint
from apr.formats.recorded import Probe, Recorded, TrainingRecord
from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of, tensor_digests
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.convert.conftest import copied, facts

PROVENANCE = {"license": "Apache-2.0", "data_source": "the stack", "data_license": "LicenseRef-stack"}


@pytest.fixture
def trained(models: dict[str, Path], tmp_path: Path) -> Path:
    """A directory with a training record, a probe and provenance, as our own export writes one."""
    directory = copied(models["qwen2"], tmp_path / "trained")
    with open_checkpoint(directory) as checkpoint:
        digests = tensor_digests(map(copy_of, checkpoint.tensors.values()))
    probe = Probe(((1, 2), (3, 4)), 5.5, ((7,), (8,)), ((1.5,), (0.1,)), "float32", "cpu")
    training = TrainingRecord(step=3, validation_loss=4.6227, parent_digest="blake3:" + "a" * 64, versions={"apr": "1"})
    recorded = Recorded(training, probe, digests, provenance=PROVENANCE)
    (directory / "apr.json").write_text(json.dumps(recorded.to_json()))
    return directory


def recorded_facts(path: Path) -> dict[str, object]:
    """Record and provenance of the checkpoint at `path`, wherever its container keeps them."""
    with open_checkpoint(path) as checkpoint:
        recorded = checkpoint.recorded._replace(provenance={}, history=())
        known = {**checkpoint.recorded.provenance, **checkpoint.metadata}
        return {"recorded": recorded.to_json(), "provenance": {key: known.get(key) for key in PROVENANCE}}


@pytest.mark.falsifies("FALSIFY-GENERATION-001")
@pytest.mark.falsifies("FALSIFY-CONVERT-HF-ARCH-001")
def test_directory_to_apr_to_directory_to_apr(model: Path, tmp_path: Path) -> None:
    first = import_checkpoint(model, tmp_path / "1.apr")
    second = export_checkpoint(first.output, tmp_path / "2")
    third = import_checkpoint(second.output, tmp_path / "3.apr")
    assert facts(model) == facts(first.output) == facts(second.output) == facts(third.output)
    assert first.weights_digest == second.weights_digest == third.weights_digest
    assert (second.output / "config.json").read_text() == (model / "config.json").read_text()
    assert recorded_facts(first.output) == recorded_facts(third.output)


@pytest.mark.falsifies("FALSIFY-GENERATION-001")
def test_apr_to_apr_and_directory_to_directory(model: Path, tmp_path: Path) -> None:
    first = import_checkpoint(model, tmp_path / "1.apr")
    again = import_checkpoint(first.output, tmp_path / "2.apr")
    assert facts(again.output) == facts(model)
    assert again.weights_digest == first.weights_digest
    assert again.output.read_bytes() == first.output.read_bytes()
    canonical = export_checkpoint(model, tmp_path / "3")
    assert facts(canonical.output) == facts(model)
    assert canonical.weights_digest == first.weights_digest


@pytest.mark.falsifies("FALSIFY-APR-PROV-001")
def test_records_and_provenance_survive_every_way_round(trained: Path, tmp_path: Path) -> None:
    first = import_checkpoint(trained, tmp_path / "1.apr").output
    second = export_checkpoint(first, tmp_path / "2").output
    third = import_checkpoint(second, tmp_path / "3.apr").output
    wanted = recorded_facts(trained)
    for path in (first, second, third):
        found = recorded_facts(path)
        assert found["provenance"] == PROVENANCE
        assert found["recorded"]["training"] == wanted["recorded"]["training"]
        assert found["recorded"]["probe"] == wanted["recorded"]["probe"]
        assert found["recorded"]["tensor_digests"] == wanted["recorded"]["tensor_digests"]
    with open_checkpoint(first) as checkpoint:
        assert checkpoint.metadata["license"] == "Apache-2.0"


def test_the_history_of_stamps_survives_every_way_round(trained: Path, tmp_path: Path) -> None:
    stamp_file(trained, StampChanges(license="MIT"), in_place=True, reason="relicensed")
    first = import_checkpoint(trained, tmp_path / "1.apr").output
    second = export_checkpoint(first, tmp_path / "2").output
    for path in (first, second):
        with open_checkpoint(path) as checkpoint:
            assert [entry["reason"] for entry in checkpoint.recorded.history] == ["relicensed"]
            assert checkpoint.recorded.history[0]["changes"][0]["previous"] == "Apache-2.0"


def test_a_second_import_of_the_same_source_is_byte_identical(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["gpt2"], tmp_path / "x.apr").output
    data = first.read_bytes()
    assert import_checkpoint(models["gpt2"], tmp_path / "x.apr", force=True).output.read_bytes() == data
