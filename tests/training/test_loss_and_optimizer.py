"""One definition of loss, computed whole or in pieces; gradients, clipping and updates against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apr.training import token_loss
from apr.training.causality import check_causality
from apr.training.metrics import next_token_loss_sum, next_token_loss_with_gradient
from apr.training.optimizer import CLIP_NORM, Optimizer
from apr.training.token_loss import TokenLoss
from tests.tiny_models import CONFIGS, VOCABULARY, tiny_model


def windows(rows: int = 3, length: int = 17) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def reference(model: Any, batch: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = model(input_ids=batch[:, :-1]).logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return float(loss.detach()), gradients


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of seven tokens at a time."""
    for name in ("SMALLEST_PIECE_BYTES", "TRAINING_PIECE_BYTES", "EVALUATION_PIECE_BYTES"):
        monkeypatch.setattr(token_loss, name, 7 * VOCABULARY * 4)


@pytest.fixture(params=["whole", "pieces"])
def _bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pieces":
        small_pieces(monkeypatch)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
@pytest.mark.usefixtures("_bound")
def test_loss_and_gradients_are_those_of_plain_torch(model_type: str) -> None:
    model, batch = tiny_model(model_type), windows()
    loss, gradients = reference(model, batch)
    ours = TokenLoss(model, VOCABULARY)
    assert ours.evaluate(batch) / 48 == pytest.approx(loss, rel=1e-6)
    halves = ours.backward(batch[:1], 48) + ours.backward(batch[1:], 48)
    assert float(halves) == pytest.approx(loss, rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_loss_is_that_of_autograd(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(11, 40, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, 40, (11,), generator=generator)
    loss, gradient = next_token_loss_with_gradient(logits, targets, 7)
    expected = next_token_loss_sum(logits, targets) / 7
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-7)


def test_a_model_that_cannot_be_taken_apart_is_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch)
    model, batch = tiny_model("qwen2"), windows()
    honest = TokenLoss(model, VOCABULARY).evaluate(batch)
    original = model.forward

    def scaled_by_length(input_ids: torch.Tensor, **keywords: Any) -> Any:
        answer = original(input_ids=input_ids, **keywords)
        answer.logits = answer.logits * input_ids.shape[1]
        return answer

    model.forward = scaled_by_length
    whole = TokenLoss(model, VOCABULARY)
    assert whole.evaluate(batch) != pytest.approx(honest, rel=1e-3)
    assert whole._can_split is False


@pytest.mark.falsifies("FALSIFY-TRAIN-001")
@pytest.mark.planted_defect("GATE-TRAIN-001")
def test_the_gradient_norm_is_global_and_taken_before_clipping() -> None:
    model, batch = tiny_model("qwen2"), windows()
    _, gradients = reference(model, batch)
    expected = torch.sqrt(sum((gradient.double() ** 2).sum() for gradient in gradients.values()))
    for scale, clipped in ((1.0, None), (1000.0, CLIP_NORM)):
        TokenLoss(model, VOCABULARY).backward(batch, 48)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad *= scale
        optimizer = Optimizer(model)
        assert float(optimizer.clip()) == pytest.approx(scale * float(expected), rel=1e-5)
        after = torch.sqrt(sum((parameter.grad.double() ** 2).sum() for parameter in model.parameters()))
        assert float(after) == pytest.approx(clipped or min(1.0, float(expected)), rel=1e-4)
        optimizer.drop_gradients()


@pytest.mark.falsifies("FALSIFY-TRAIN-010")
@pytest.mark.planted_defect("GATE-TRAIN-010")
def test_three_steps_change_the_weights_as_plain_adamw_does_at_the_rates_given() -> None:
    ours, theirs = tiny_model("qwen2"), tiny_model("qwen2")
    optimizer = Optimizer(ours)
    decayed = [parameter for parameter in theirs.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in theirs.parameters() if parameter.ndim < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.999)
    )
    for step, rate in enumerate((1e-3, 2e-3, 5e-4)):
        batch = windows(length=17 + step)
        TokenLoss(ours, VOCABULARY).backward(batch, batch.shape[0] * (batch.shape[1] - 1))
        optimizer.clip()
        assert optimizer.step(rate) == rate
        _, gradients = reference(theirs, batch)
        for name, parameter in theirs.named_parameters():
            parameter.grad = gradients[name]
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=2e-5)


def test_small_updates_reach_bfloat16_weights_through_float32_masters() -> None:
    """Forty updates far below the rounding of bfloat16 move the weights as far as they do in float32."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model("qwen2").to(dtype)
        weight = model.model.layers[0].mlp.up_proj.weight
        before = weight.detach().float().clone()
        optimizer = Optimizer(model)
        assert optimizer.state_count == 0
        for _ in range(40):
            TokenLoss(model, VOCABULARY).backward(windows(), 48)
            optimizer.clip()
            optimizer.step(1e-5)
        moved[dtype] = float((weight.detach().float() - before).abs().mean())
    assert moved[torch.bfloat16] == pytest.approx(moved[torch.float32], rel=0.25)


@pytest.mark.falsifies("FALSIFY-TRAIN-STATE-001")
@pytest.mark.planted_defect("INV-TRAIN-003")
def test_the_state_digest_is_of_the_state() -> None:
    def digest(rate: float, seed: int = 0, steps: int = 2) -> str:
        model = tiny_model("qwen2", seed=seed)
        optimizer = Optimizer(model)
        for _ in range(steps):
            TokenLoss(model, VOCABULARY).backward(windows(), 48)
            optimizer.clip()
            optimizer.step(rate)
        return optimizer.state_digest()

    assert digest(1e-3) == digest(1e-3)
    assert len({digest(1e-3), digest(2e-3), digest(1e-3, seed=1), digest(1e-3, steps=3), digest(1e-3, steps=0)}) == 5


def test_a_dropped_step_leaves_weights_and_state_alone() -> None:
    model = tiny_model("qwen2")
    optimizer = Optimizer(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    TokenLoss(model, VOCABULARY).backward(windows(), 48)
    optimizer.drop_gradients()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(first, second) for first, second in zip(before, model.parameters(), strict=True))
    assert (optimizer.state_count, optimizer.steps_done) == (0, 0)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_decoders_do_not_look_ahead(model_type: str) -> None:
    assert check_causality(tiny_model(model_type)).status == "pass"


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-007")
def test_a_model_that_sees_the_answer_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    small = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for is_decoder, status in ((False, "refuse"), (True, "pass")):
        torch.manual_seed(0)
        model = BertLMHeadModel(BertConfig(**small, intermediate_size=64, is_decoder=is_decoder)).eval()
        assert check_causality(model).status == status
