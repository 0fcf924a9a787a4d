"""The probe's record, and models that give no answer to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from apr.errors import DamagedFileError
from apr.loading.probe import check_that_it_runs, record_probe, replay_probe
from tests.tiny_models import CONFIGS, tiny_model


def failing_model() -> Any:
    model = tiny_model("qwen2")

    def fail(*_: Any) -> None:
        raise RuntimeError("shape '[1, 32, 3, 21]' is invalid\nwith a second line")

    model.model.layers[1].register_forward_hook(fail)
    return model


def overflowing_model() -> Any:
    model = tiny_model("qwen2")
    model.model.layers[1].register_forward_hook(lambda _, __, output: output * math.inf)
    return model


@pytest.mark.parametrize(("options", "length"), [({}, 32), ({"n_positions": 16}, 16)])
def test_a_record_is_one_row_as_long_as_the_model_has_positions(options: dict[str, Any], length: int) -> None:
    probe = record_probe(tiny_model("gpt2", **options))
    assert [len(row) for row in probe.tokens] == [length]
    assert [len(row) for row in probe.top_logits] == [8]


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.parametrize("ask", ["run", "replay"])
def test_a_model_that_raises_is_said_to_compute_nothing(ask: str) -> None:
    recorded = record_probe(tiny_model("qwen2"))
    model = failing_model()
    with pytest.raises(DamagedFileError, match="Qwen2ForCausalLM does not compute with this config") as caught:
        check_that_it_runs(model) if ask == "run" else replay_probe(model, recorded)
    assert caught.value.found == "RuntimeError: shape '[1, 32, 3, 21]' is invalid"
    assert caught.value.expected == "finite logits, not all alike, for 32 tokens"
    assert caught.value.invariant == "INV-INIT-PROBE-001"


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_model_that_overflows_neither_runs_nor_reproduces_anything() -> None:
    recorded = record_probe(tiny_model("qwen2"))
    model = overflowing_model()
    with pytest.raises(DamagedFileError, match="does not compute with this config") as caught:
        check_that_it_runs(model)
    assert str(caught.value.found).endswith("logits are not finite")
    assert not replay_probe(model, recorded).agrees


def test_a_healthy_model_runs_and_reproduces_its_record() -> None:
    model = tiny_model("qwen2").train()
    check_that_it_runs(model)
    assert replay_probe(model, record_probe(model)).agrees
    assert model.training


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_record_with_tokens_that_the_model_lacks_is_damaged() -> None:
    model = tiny_model("qwen2")
    recorded = record_probe(model)
    for tokens in (((0, 1 << 20),), ((-1, 0),)):
        with pytest.raises(DamagedFileError, match="names tokens outside the vocabulary"):
            replay_probe(model, recorded._replace(tokens=tokens))


def test_want_of_memory_is_not_the_model_s_fault() -> None:
    model = tiny_model("qwen2")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    model.model.layers[0].register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        check_that_it_runs(model)


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_model_that_answers_every_token_alike_computes_nothing() -> None:
    model = tiny_model("qwen2")
    model.lm_head.register_forward_hook(lambda _, __, output: output * 0.0)
    with pytest.raises(DamagedFileError, match="does not compute with this config") as caught:
        check_that_it_runs(model)
    assert caught.value.found == "the same logit for every token of the vocabulary"


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_what_it_is_to_predict_is_refused_where_it_has_to_be_causal(dtype: torch.dtype) -> None:
    model = tiny_model("llama", is_causal=False).to(dtype)
    check_that_it_runs(model)
    with pytest.raises(DamagedFileError, match="sees the token it is to predict") as caught:
        check_that_it_runs(model, is_causal=True)
    assert "another last token moves the logits before it" in str(caught.value.found)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_see_nothing_of_what_they_are_to_predict(model_type: str, dtype: torch.dtype) -> None:
    check_that_it_runs(tiny_model(model_type).to(dtype), is_causal=True)


@pytest.mark.parametrize("words", ["strides should be multiple of 16 bytes", "\"cumsum\" not implemented for 'Half'"])
def test_a_kernel_that_torch_lacks_here_is_not_the_model_s_fault(words: str) -> None:
    recorded = record_probe(tiny_model("qwen2"))
    model = tiny_model("qwen2")

    def fail(*_: Any) -> None:
        raise RuntimeError(words)

    model.model.layers[1].register_forward_hook(fail)
    note = check_that_it_runs(model)
    assert note is not None
    assert words in note
    with pytest.raises(DamagedFileError, match="cannot be run here in torch"):
        replay_probe(model, recorded)


def test_a_model_that_predicts_fewer_tokens_than_it_reads_runs_and_reproduces_its_record() -> None:
    model = tiny_model("qwen2")
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits[..., :100]))
    assert check_that_it_runs(model) is None
    assert replay_probe(model, record_probe(model)).agrees


def test_a_record_is_of_tokens_that_the_model_predicts_where_the_usual_ones_are_none() -> None:
    model = tiny_model("qwen2")
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits[..., :2]))
    recorded = record_probe(model)
    assert math.isfinite(recorded.loss)
    assert replay_probe(model, recorded).agrees
