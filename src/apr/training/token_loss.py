"""Loss of a causal language model over windows, with the logits of few tokens in memory at a time.

Letters in shapes: B rows, T positions (inputs), H hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apr.training.metrics import next_token_loss_sum, next_token_loss_with_gradient

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FLOAT32_BYTES = 4
# Float32 logits held at once. Pieces far larger than the C library's reuse of freed memory (32 MiB) cost more in page
# faults than in arithmetic; pieces far smaller than the head's weights cost more in adding up its gradients.
SMALLEST_PIECE_BYTES = 16 << 20
TRAINING_PIECE_BYTES = 128 << 20
EVALUATION_PIECE_BYTES = 32 << 20
PIECE_PER_HEAD = 2
# On a GPU memory is taken from a pool and small matrix products waste the machine.
CUDA_PIECE_BYTES = 1 << 30
# Allowed between logits computed together and apart, relative to the largest: another order of summing, no more.
SPLIT_TOLERANCE_FLOAT32 = 1e-5
SPLIT_TOLERANCE_HALF = 2e-2


class TokenLoss:
    """Forward and backward of `model` over windows.

    Where a batch's logits exceed the bound, the backbone runs once and the model's own head runs on pieces of its
    hidden states, so that whatever the head does (scaling, soft-capping) is done by the model. Whether a model can be
    taken apart like this is tried once on a few tokens; one that cannot computes all logits together.
    """

    def __init__(self, model: PreTrainedModel, vocabulary_rows: int) -> None:
        self._model = model
        self.vocabulary_rows = vocabulary_rows
        self._can_split: bool | None = None
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._backbone: Any = model.base_model
        self._answer_type: Any = None

    def evaluate(self, windows_BT1: torch.Tensor) -> float:
        """Summed loss over all targets of `windows_BT1` ([B, T + 1] ids on the model's device), without gradients."""
        import torch

        inputs, targets = windows_BT1[:, :-1], windows_BT1[:, 1:].reshape(-1)
        tokens = self._piece_tokens(EVALUATION_PIECE_BYTES)
        with torch.no_grad():
            if not self._must_split(targets.numel(), tokens):
                return float(next_token_loss_sum(self._logits(inputs), targets))
            hidden_TH = self._hidden_states(inputs).flatten(0, -2)
            total = torch.zeros((), dtype=torch.float64, device=windows_BT1.device)
            for hidden, wanted in zip(hidden_TH.split(tokens), targets.split(tokens), strict=True):
                total += next_token_loss_sum(self._head(hidden), wanted).double()
            return float(total)

    def backward(self, windows_BT1: torch.Tensor, divisor: int) -> torch.Tensor:
        """Summed loss over `windows_BT1` divided by `divisor`, detached; its gradients are added to the parameters."""
        import torch

        inputs, targets = windows_BT1[:, :-1], windows_BT1[:, 1:].reshape(-1)
        tokens = self._piece_tokens(TRAINING_PIECE_BYTES)
        if not self._must_split(targets.numel(), tokens):
            return _backward_from(self._logits(inputs), targets, divisor)
        hidden = self._hidden_states(inputs)
        hidden_TH = hidden.detach().flatten(0, -2)
        gradient_TH = torch.empty_like(hidden_TH)
        total = torch.zeros((), dtype=torch.float32, device=windows_BT1.device)
        for piece, gradient, wanted in zip(
            hidden_TH.split(tokens), gradient_TH.split(tokens), targets.split(tokens), strict=True
        ):
            leaf = piece.detach().requires_grad_()
            total += _backward_from(self._head(leaf), wanted, divisor)
            gradient.copy_(leaf.grad)
        hidden.backward(gradient_TH.view_as(hidden))
        return total

    def _logits(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        return self._model(input_ids=inputs_BT, use_cache=False).logits.flatten(0, 1)

    def _piece_tokens(self, limit_bytes: int) -> int:
        """Tokens whose logits are computed together: in balance with the head's own size, within the limits."""
        if self._model.device.type == "cuda":
            return max(1, CUDA_PIECE_BYTES // (self.vocabulary_rows * FLOAT32_BYTES))
        head = self._model.get_output_embeddings()
        head_bytes = limit_bytes if head is None else head.weight.numel() * FLOAT32_BYTES
        piece_bytes = min(limit_bytes, max(SMALLEST_PIECE_BYTES, PIECE_PER_HEAD * head_bytes))
        return max(1, piece_bytes // (self.vocabulary_rows * FLOAT32_BYTES))

    def _must_split(self, tokens: int, piece_tokens: int) -> bool:
        if tokens <= piece_tokens:
            return False
        if self._can_split is None:
            self._can_split = self._try_split()
        return self._can_split

    def _backbone_answer(self, inputs_BT: torch.Tensor) -> Any:
        """The backbone's output object for `inputs_BT`; the head itself runs on the last position at most."""
        backbone = self._backbone
        if not self._keeps_logits:
            return backbone(input_ids=inputs_BT, use_cache=False)
        captured: list[Any] = []
        hook = backbone.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
        try:
            self._model(input_ids=inputs_BT, use_cache=False, logits_to_keep=1)
        finally:
            hook.remove()
        return captured[0]

    def _hidden_states(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """What the backbone gives the head, [B, T, H]."""
        hidden: torch.Tensor = self._backbone_answer(inputs_BT).last_hidden_state
        return hidden

    def _head(self, hidden_TH: torch.Tensor) -> torch.Tensor:
        """The model's answer [tokens, V] to hidden states [tokens, H]: its own forward around a given backbone."""
        import torch

        ids = torch.zeros((1, len(hidden_TH)), dtype=torch.long, device=hidden_TH.device)
        with _replaced_forward(self._backbone, self._answer_type(last_hidden_state=hidden_TH[None])):
            logits: torch.Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        return logits

    def _try_split(self) -> bool:
        """Whether some backbone and the head apart give the logits of the whole model, on two rows of four tokens."""
        import torch

        model, base = self._model, self._model.base_model
        parameter = next(model.parameters())
        ids = torch.arange(8, device=parameter.device).reshape(2, 4) % self.vocabulary_rows
        relative = SPLIT_TOLERANCE_FLOAT32 if parameter.dtype is torch.float32 else SPLIT_TOLERANCE_HALF
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                whole = self._logits(ids).float()
                # Encoder-decoder bodies used as decoders (OPT) keep the part that feeds the head one level down.
                for backbone in (base, getattr(base, "decoder", None)):
                    if backbone is None or backbone is model:
                        continue
                    self._backbone = backbone
                    apart = self._apart(ids)
                    if apart is None or apart.shape != whole.shape:
                        continue
                    if float((whole - apart).abs().max()) <= relative * max(1.0, float(whole.abs().max())):
                        return True
        finally:
            model.train(was_training)
        return False

    def _apart(self, ids: torch.Tensor) -> torch.Tensor | None:
        try:
            self._answer_type = type(self._backbone_answer(ids))
            return self._head(self._hidden_states(ids).flatten(0, -2)).float()
        except (AttributeError, IndexError, RecursionError, RuntimeError, TypeError, ValueError):
            return None


def _backward_from(logits: torch.Tensor, targets: torch.Tensor, divisor: int) -> torch.Tensor:
    loss, gradient = next_token_loss_with_gradient(logits, targets, divisor)
    logits.backward(gradient)
    return loss


@contextmanager
def _replaced_forward(module: torch.nn.Module, answer: Any) -> Iterator[None]:
    """Within the block, `module` answers `answer` whatever it is asked; hooks and parameters stay as they are."""
    had_own = "forward" in module.__dict__
    own = module.__dict__.get("forward")
    module.forward = lambda *_arguments, **_keywords: answer
    try:
        yield
    finally:
        if had_own:
            module.forward = own
        else:
            del module.forward
