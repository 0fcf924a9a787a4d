"""How far a replayed probe is from its record when nothing is wrong, and how far when the config has drifted.

For each dtype: a probe is recorded with one thread and the `eager` attention of one batch layout, and replayed on the
same weights with every thread count, attention implementation and batch layout, and in fp32 to bf16/fp16 casts of the
same model; the largest differences of loss and top logits are the noise that a tolerance has to allow. Then the same
weights are replayed under drifted configs (rope base, norm epsilon, head split, activation): what a tolerance has to
catch. Prints both, and the tolerances in force. With a GPU, it is one more place to replay on.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common import print_environment

if TYPE_CHECKING:
    import torch

TRAINED_SCALE = 3.0

DRIFTS: dict[str, dict[str, Any]] = {
    "rope base x 0.5": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "norm epsilon 1e-6 to 1e-5": {"rms_norm_eps": 1e-5},
    "norm epsilon 1e-6 to 1e-3": {"rms_norm_eps": 1e-3},
    "half the heads": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "silu to gelu": {"hidden_act": "gelu"},
    "rope scaled by 2": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
}


def make_model(model_type: str, hidden: int, layers: int) -> Any:
    """A model whose logits are as wide as a trained one's; fresh weights make every difference look small."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=4096,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=3 * hidden,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        head_dim=hidden // 8,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(TRAINED_SCALE) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def places(model: Any) -> Iterator[tuple[str, Any]]:
    """The same weights under every thread count, attention implementation and device there is."""
    import torch

    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            yield f"{attention}, {threads} threads", model
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            yield f"{attention}, cuda", copy.deepcopy(model).cuda()


def layouts(probe: Any, model: Any) -> Iterator[tuple[str, float, float]]:
    """Loss and logit differences of replays in one batch and row by row."""

    from apr.loading.probe import replay_probe

    whole = replay_probe(model, probe)
    yield "one batch", whole.loss_difference, whole.largest_logit_difference
    logits = 0.0
    for row in range(len(probe.tokens)):
        one = probe._replace(**{key: getattr(probe, key)[row : row + 1] for key in ("tokens", "top_ids", "top_logits")})
        logits = max(logits, replay_probe(model, one).largest_logit_difference)
    yield "row by row", 0.0, logits


def drifted(model: Any, changes: dict[str, Any]) -> Any:
    import torch

    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    if "num_attention_heads" in changes:
        config.head_dim = config.hidden_size // config.num_attention_heads
    other = type(model)(config).to(model.dtype)
    with torch.no_grad():
        other.load_state_dict(model.state_dict())
    return other.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="*", default=["llama", "qwen2", "gemma"])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    arguments = parser.parse_args()
    import torch

    from apr.loading.probe import TOLERANCES, record_probe, replay_probe

    print_environment("torch", "transformers", "apr")
    print(f"cuda: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    is_right = True
    for name, tolerance in TOLERANCES.items():
        dtype: torch.dtype = getattr(torch, name)
        loss_noise = logit_noise = 0.0
        scale = share = 0.0
        caught: dict[str, list[bool]] = {}
        sizes: dict[str, tuple[float, float]] = {}
        for model_type in arguments.types:
            model = make_model(model_type, arguments.hidden, arguments.layers).to(dtype)
            model.set_attn_implementation("eager")
            torch.set_num_threads(1)
            probe = record_probe(model)
            scale = max(scale, max(max(row) for row in probe.top_logits))
            allowed = replay_probe(model, probe).allowed_logit_difference
            for _, same in places(model):
                for _, loss, logits in layouts(probe, same):
                    loss_noise = max(loss_noise, loss / max(abs(probe.loss), 1.0))
                    logit_noise = max(logit_noise, logits)
                    share = max(share, logits / allowed, loss / max(abs(probe.loss), 1.0) / tolerance.loss_relative)
            model.set_attn_implementation("eager")
            for drift, changes in DRIFTS.items():
                replay = replay_probe(drifted(model, changes), probe)
                caught.setdefault(drift, []).append(not replay.agrees)
                relative = replay.loss_difference / max(abs(probe.loss), 1.0)
                before = sizes.get(drift, (float("inf"), float("inf")))
                sizes[drift] = (min(before[0], relative), min(before[1], replay.largest_logit_difference))
        print(
            f"{name}: noise {loss_noise:.2e} of the loss, {logit_noise:.2e} of a logit (logits up to {scale:.1f}); "
            f"allowed: {tolerance.loss_relative:g} of the loss, {tolerance.logit_relative:g} of the largest logit or "
            f"{tolerance.logit_absolute:g}; the noise is at most {share:.0%} of that"
        )
        is_right &= share <= 1
        for drift, answers in caught.items():
            loss, logits = sizes[drift]
            verdict = f"{sum(answers)} of {len(answers)} caught"
            print(f"  {drift:<28} smallest {loss:.2e} of the loss, {logits:.2e} of a logit: {verdict}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
