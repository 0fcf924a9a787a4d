"""Every fault is refused by its gate, at its stage, with its cause named; every healthy twin is accepted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from apr.gates.facts import TokenizerFacts
from apr.gates.road import Examination, RoadOptions, deepen, examine, try_load
from apr.loading import materialise as materialise_module
from apr.loading.tokenizer import build_tokenizer, tokenizer_output_hash, vocabulary_size
from tests.faults.checkpoints import HF, SAFETENSORS, Draft, write
from tests.faults.corpus import DEEP, FAULTS, HEADERS, LOAD, TWINS, Fault, Twin

STAGES = (HEADERS, DEEP, LOAD)
LETTERS = "ABCDEFGHIJKLMN"


def walk(path: Path, draft: Draft, stage: str, monkeypatch, **options) -> list[Examination]:
    """The examinations up to `stage`, each stage's own.

    A lone .safetensors file is refused from headers, as it records no config; what its values show is said as well.
    """
    files = draft.tokenizer
    if files is not None:
        size = vocabulary_size(build_tokenizer(files))
        options["tokenizer"] = TokenizerFacts("given", size, tokenizer_output_hash(files))
    is_lone = path.suffix == ".safetensors"
    steps = [examine(path, RoadOptions(may_use_zoo=True, **options))]
    if stage != HEADERS and (steps[-1].is_accepted or is_lone):
        steps.append(deepen(steps[-1]))
    if stage == LOAD and steps[-1].is_accepted:
        if draft.on_load is not None:
            _change_after_load(monkeypatch, draft.on_load)
        steps.append(try_load(steps[-1])[1])
    steps[-1].close()
    return steps


def _change_after_load(monkeypatch, change) -> None:
    def patched(checkpoint, plan, **keywords):
        done = original(checkpoint, plan, **keywords)
        change(done.model)
        return done

    original = materialise_module.materialise
    monkeypatch.setattr(materialise_module, "materialise", patched)


def _cases(rows):
    return [
        pytest.param(row, container, id=f"{row.letter} {row.name} [{container}]")
        for row in rows
        for container in row.containers
    ]


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.planted_defect("INV-LINEAGE-001")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-003")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-004")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-009")
@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-010")
@pytest.mark.parametrize(("fault", "container"), _cases(FAULTS))
def test_a_fault_is_refused_by_its_gate_at_its_stage(fault: Fault, container, tmp_path, monkeypatch):
    draft = fault.draft()
    steps = walk(write(draft, container, tmp_path), draft, fault.stage, monkeypatch)
    said = {finding.id: "" for finding in steps[-1].refusals}
    for finding in steps[-1].refusals:
        said[finding.id] += f" {finding.message} {finding.expected} {finding.found}"
    assert len(steps) == STAGES.index(fault.stage) + 1, f"refused too early: {said}"
    assert fault.expected_id in said, said
    assert fault.says in said[fault.expected_id]


@pytest.mark.parametrize(("twin", "container"), _cases(TWINS))
def test_a_healthy_twin_is_accepted_to_the_end(twin: Twin, container, tmp_path, monkeypatch):
    draft = twin.draft()
    steps = walk(write(draft, container, tmp_path), draft, LOAD, monkeypatch, allowed_tensors=twin.allowed)
    assert steps[-1].is_accepted, steps[-1].refusals
    assert len(steps) == len(STAGES)


def test_the_gates_named_above_are_those_of_the_corpus():
    marked = {mark.args[0] for mark in test_a_fault_is_refused_by_its_gate_at_its_stage.pytestmark if mark.args}
    assert {fault.expected_id for fault in FAULTS} == {each for each in marked if isinstance(each, str)}


def test_every_class_has_six_faults_and_a_twin():
    assert {letter: count for letter, count in Counter(fault.letter for fault in FAULTS).items() if count < 6} == {}
    assert {fault.letter for fault in FAULTS} == {twin.letter for twin in TWINS} == set(LETTERS)


def test_every_container_bears_faults_of_names_and_values():
    for stage in (HEADERS, DEEP):
        containers = {container for fault in FAULTS if fault.stage == stage for container in fault.containers}
        assert containers >= {HF, SAFETENSORS, "sharded", "apr"}
