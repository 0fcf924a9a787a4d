"""What is wrong with a call or a model is an error of `apr`, with a way out, and survives being sent or copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import apr
import apr.hf
from apr.errors import NotFoundError, RefusedError, UsageError
from tests.library.conftest import refusal_of, refusing_ids


def load(path: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, **options)


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
def test_a_model_without_memory_is_refused(qwen2: Path) -> None:
    ids = refusing_ids(lambda: apr.verify_loaded(load(qwen2).to("meta"), qwen2))
    assert {"INV-INIT-RECEIPT-001", "INV-INIT-BUFFERS-001"} <= ids


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_layer_that_stands_in_two_places_is_refused(qwen2: Path) -> None:
    model = load(qwen2)
    model.model.layers[0] = model.model.layers[1]
    error = refusal_of(lambda: apr.verify_loaded(model, qwen2))
    assert error.invariant == "INV-INIT-COVERAGE-001"
    assert "model.layers.0.mlp.up_proj.weight" in str(error)


@pytest.mark.parametrize("device", ["auto", "nowhere", "cuda:77"])
def test_a_device_that_is_not_there_is_a_wrong_call(qwen2: Path, device: str) -> None:
    with pytest.raises(UsageError, match="cannot go to this device"):
        apr.load_verified(None, qwen2, device=device)


def test_a_path_that_does_not_exist_is_said_to(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(NotFoundError):
        apr.hf.from_pretrained(AutoModelForCausalLM, tmp_path / "nothing" / "here")
    with apr.hf.strict(), pytest.raises(NotFoundError):
        AutoModelForCausalLM.from_pretrained("./nothing-here")


def test_a_refusal_can_be_pickled_and_copied(qwen2: Path) -> None:
    error = refusal_of(lambda: apr.verify_loaded(load(qwen2, rms_norm_eps=1e-3), qwen2))
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert isinstance(other, RefusedError)
        assert str(other) == str(error)
        assert other.to_json() == error.to_json()
        with pytest.raises(TypeError):
            other.facts["new"] = 1


def test_a_strict_block_may_end_in_another_context() -> None:
    from transformers import PreTrainedModel

    before = PreTrainedModel.__dict__["from_pretrained"]

    def hold() -> Iterator[None]:
        with apr.hf.strict():
            yield

    held = hold()
    copy_context().run(next, held)
    assert PreTrainedModel.__dict__["from_pretrained"] is not before
    held.close()
    assert PreTrainedModel.__dict__["from_pretrained"] is before


def test_the_library_speaks_of_its_own_arguments(qwen2: Path) -> None:
    from apr.library.step0 import Measured, judge_loss

    with pytest.raises(UsageError) as caught:
        apr.verify_loaded(load(qwen2), qwen2, allowed_gates={"INV-NONE": "reason"})
    assert "allowed_gates={ID: REASON}" in str(caught.value)
    measured = Measured(9.0, 16, "blake3:00")
    finding = judge_loss(measured, vocabulary_size=320, expected_loss=None, tolerance_relative=1e-3)[0]
    assert finding.remedy is not None
    assert "expected_loss=" in finding.remedy
    assert "allowed_gates={'INV-INIT-LOSS-001'" in finding.remedy
    assert "--init" not in finding.remedy


def test_a_callback_knows_its_source_wherever_the_run_goes(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(qwen2.parent)
    callback = apr.hf.VerifyCallback(qwen2.name)
    monkeypatch.chdir(tmp_path)
    assert callback.terms.source == qwen2
    assert str(apr.hf.VerifyCallback("organisation/name").terms.source) == "organisation/name"
