"""Random rounding: what a model's own arithmetic does to its probe, and that a changed config does more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apr.loading.probe import MOST_NOISE_OF_LOGIT, NOISE_FACTOR, record_probe, replay_probe
from apr.loading.rounding import MANTISSA_BITS, RoundingNoise, _moved, _rounded_at_random, rounding_noise
from tests.tiny_models import tiny_model

DEEP = {
    "hidden_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 384,
}


def deep_model(**changes: Any) -> Any:
    """In bfloat16, with matrices wide enough that roundings of the first layers are seen at the end."""
    model = tiny_model("llama", **DEEP, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.to(torch.bfloat16)


@pytest.fixture(scope="module")
def deep() -> Any:
    return deep_model()


@pytest.fixture(scope="module")
def recorded(deep: Any) -> Any:
    deep.set_attn_implementation("eager")
    return record_probe(deep)


def test_another_attention_kernel_is_rounding(deep: Any, recorded: Any) -> None:
    deep.set_attn_implementation("sdpa")
    replay = replay_probe(deep, recorded)
    assert replay.agrees
    assert replay.noise is not None, "the model is too shallow for this test"
    assert replay.largest_logit_difference < replay.noise.logit


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
        {"rms_norm_eps": 1e-2},
        {"hidden_act": "gelu"},
    ],
)
def test_another_config_is_no_rounding(recorded: Any, changes: dict[str, Any]) -> None:
    replay = replay_probe(deep_model(**changes), recorded)
    assert replay.noise is not None
    assert not replay.agrees


def test_a_model_in_a_finer_dtype_is_measured_in_that_of_the_record(deep: Any, recorded: Any) -> None:
    import copy

    wide = copy.deepcopy(deep).float()
    replay = replay_probe(wide, recorded)
    assert replay.agrees
    assert replay.noise is None or replay.noise.logit > 1e-2


def test_nothing_is_measured_where_the_usual_tolerance_is_enough() -> None:
    model = tiny_model("qwen2")
    assert replay_probe(model, record_probe(model)).noise is None


def test_noise_never_allows_more_than_a_share_of_the_logits() -> None:
    from dataclasses import replace

    model = tiny_model("qwen2")
    replay = replay_probe(model, record_probe(model))
    largest = max(abs(logit) for row in replay.recorded.top_logits for logit in row)
    wild = replace(replay, noise=RoundingNoise(loss=100.0, logit=100.0))
    assert wild.allowed_logit_difference == pytest.approx(MOST_NOISE_OF_LOGIT * largest)
    assert wild.allowed_loss_difference == pytest.approx(0.05 * replay.recorded.loss)
    some = replace(replay, noise=RoundingNoise(loss=0.0, logit=0.1 * largest))
    assert some.allowed_logit_difference == pytest.approx(NOISE_FACTOR * 0.1 * largest)


@pytest.mark.parametrize("dtype", MANTISSA_BITS)
@pytest.mark.parametrize("step", [1, 8])
def test_values_move_by_whole_steps_and_stay_finite(dtype: str, step: int) -> None:
    kind = getattr(torch, dtype)
    largest = torch.finfo(kind).max
    values = torch.tensor([0.0, 1.0, -1.5, 3e-3, largest, -largest] * 50, dtype=kind)
    moved = _moved(values, step, torch.Generator().manual_seed(0))
    assert torch.isfinite(moved).all()
    assert (moved[values == 0] == 0).all()
    ones = moved[values == 1]
    unit = 2.0 ** -MANTISSA_BITS[dtype] * step
    assert set(ones.double().tolist()) == {1 - unit / 2, 1.0, 1 + unit}


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model = tiny_model("qwen2")
    before, state = model(torch.tensor([[1, 2, 3]])).logits, torch.get_rng_state()
    with pytest.raises(IndexError), _rounded_at_random(model, 0, 7):
        model(torch.tensor([[10**6]]))
    with _rounded_at_random(model, 0, 7):
        assert not torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_coarser_dtype_makes_more_noise() -> None:
    model = tiny_model("qwen2")
    ids = torch.tensor([[1, 2], [3, 4]])

    def run() -> tuple[torch.Tensor, float]:
        with torch.inference_mode():
            return model(torch.tensor([[5, 6, 7], [8, 9, 10]])).logits, 1.0

    noise = {dtype: rounding_noise(model, run, ids, dtype).logit for dtype in MANTISSA_BITS}
    assert 0 < noise["float32"] < noise["float16"] < noise["bfloat16"]


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_small_logits_are_held_as_tightly_as_large_ones() -> None:
    """Cohere scales its logits down; a tolerance that does not scale with them lets another model through."""

    def quiet_model(**changes: Any) -> Any:
        model = tiny_model("qwen2", **changes)
        with torch.no_grad():
            model.lm_head.weight.mul_(1e-3)
        return model

    recorded = record_probe(quiet_model())
    assert max(map(max, recorded.top_logits)) < 1e-2
    assert replay_probe(quiet_model(), recorded).agrees
    assert not replay_probe(quiet_model(hidden_act="gelu"), recorded).agrees
