"""Whether a model predicts from the past alone: a bidirectional one would learn to copy and score near zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apr.gates.finding import Finding, Status

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ID = "FALSIFY-APR-PRETRAIN-ARCH-007"
LENGTH = 8
# Largest change of earlier logits, relative to the largest logit, that another order of summing may cause.
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}


def check_causality(model: PreTrainedModel) -> Finding:
    """Change the last of LENGTH tokens and see whether the logits before it move; they must not."""
    import torch

    device = next(model.parameters()).device
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = (torch.arange(LENGTH, device=device) * 7 + 1) % rows
    changed = ids.clone()
    changed[-1] = (changed[-1] + rows // 2) % rows
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            first, second = (
                model(input_ids=each[None], use_cache=False).logits[0, :-1].float() for each in (ids, changed)
            )
    finally:
        model.train(was_training)
    scale = max(float(first.abs().max()), 1e-6)
    moved = float((first - second).abs().max()) / scale
    limit = TOLERANCES.get(str(model.dtype).removeprefix("torch."), TOLERANCES["bfloat16"])
    if rows > 1 and moved > limit:
        return Finding(
            ID,
            Status.REFUSE,
            f"{type(model).__name__} looks at the tokens it has to predict: it is no decoder as configured",
            expected="logits that do not depend on later tokens",
            found=f"logits of earlier positions moved by {moved:.3g} of their size",
            remedy="set the config's is_decoder to true (--set is_decoder=true), or name a decoder class",
        )
    return Finding(ID, Status.PASS, f"earlier logits do not depend on later tokens (moved {moved:.1e})")
