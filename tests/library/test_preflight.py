"""`apr.preflight` asks and does not fail; its answer is the road's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import apr
from apr.errors import UsageError
from tests.serving import ModelServer
from tests.tiny_models import relabel


def test_a_sound_model_is_accepted_with_every_gate_heard(qwen2: Path) -> None:
    examination = apr.preflight(qwen2)
    assert examination.is_accepted
    assert {"INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001"} <= {finding.id for finding in examination.findings}
    assert examination.facts.values is None
    assert apr.preflight(str(qwen2), deep=True).facts.values


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_mislabelled_model_is_refused_without_an_exception(qwen2: Path, tmp_path: Path) -> None:
    copy = relabel(Path(shutil.copytree(qwen2, tmp_path / "copy")), "llama", "LlamaForCausalLM")
    examination = apr.preflight(copy)
    assert not examination.is_accepted
    assert "INV-INIT-ARCH-MATCH-001" in {finding.id for finding in examination.refusals}


def test_a_path_that_is_not_there_is_an_answer_too(tmp_path: Path) -> None:
    refusals = apr.preflight(tmp_path / "nothing").refusals
    assert [finding.id for finding in refusals] == ["FALSIFY-APR-PRETRAIN-INIT-003"]


def test_its_files_are_closed(qwen2: Path) -> None:
    checkpoint = apr.preflight(qwen2, deep=True).facts.checkpoint
    assert checkpoint is not None
    assert all(file.fileno() < 0 for file in checkpoint.files)


def test_an_override_needs_a_gate_and_a_reason(qwen2: Path) -> None:
    with pytest.raises(UsageError, match="an override names one gate"):
        apr.preflight(qwen2, allowed_gates={"INV-NOT-A-GATE": "because"})
    with pytest.raises(UsageError, match="an allowed tensor names one tensor and gives a reason"):
        apr.preflight(qwen2, allowed_tensors={"lm_head.weight": " "})


def test_the_kind_of_run_is_one_of_three(qwen2: Path) -> None:
    with pytest.raises(UsageError, match="no such kind"):
        apr.preflight(qwen2, kind="diffusion")


def test_an_address_is_examined_from_headers(qwen2: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen2, tmp_path / "org" / "honest")
    lie = relabel(Path(shutil.copytree(qwen2, tmp_path / "org" / "lie")), "llama", "LlamaForCausalLM")
    with ModelServer(tmp_path).running() as server:
        assert apr.preflight("hf://org/honest", endpoint=server.url).is_accepted
        assert apr.preflight(f"{server.url}/org/honest/").is_accepted
        refused = apr.preflight("hf://org/lie", endpoint=server.url)
        assert "INV-INIT-ARCH-MATCH-001" in {finding.id for finding in refused.refusals}
        assert server.body_bytes < (lie / "model.safetensors").stat().st_size
        with pytest.raises(UsageError, match="only headers and configs are read"):
            apr.preflight("hf://org/honest", deep=True)
