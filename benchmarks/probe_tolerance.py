"""How far a replayed probe is from its record when nothing is wrong, and how far when the config has drifted.

For each dtype: a probe is recorded with one thread and the `eager` attention of one batch layout, and replayed on the
same weights with every thread count, attention implementation and batch layout; the largest differences of loss and
top logits are the noise that a tolerance has to allow. Beside it what random rounding of the model's outputs does, by
which a replay judges a difference that its dtype's tolerance does not allow. Then the same weights are replayed under
drifted configs (rope base, norm epsilon, head split, activation): what a tolerance has to catch. With a GPU, it is one
more place to replay on, also after the script has switched TensorFloat-32 on.
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
ROWS_OF_A_PROBE = ("tokens", "top_ids", "top_logits")

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
            there = copy.deepcopy(model).cuda()
            yield f"{attention}, cuda", there
            torch.set_float32_matmul_precision("high")
            yield f"{attention}, cuda, TF32", there
            torch.set_float32_matmul_precision("highest")


def layouts(probe: Any, model: Any) -> Iterator[Any]:
    """Replays of the row by itself, and in a batch with a copy of itself, which matrix products take otherwise."""
    from apr.loading.probe import replay_probe

    yield replay_probe(model, probe)
    yield replay_probe(model, probe._replace(**{key: getattr(probe, key) * 2 for key in ROWS_OF_A_PROBE}))


def random_rounding(probe: Any, model: Any, dtype: str) -> float:
    """The largest move of a recorded logit when every output of the model is rounded at random."""
    import torch

    from apr.loading.probe import run_tokens
    from apr.loading.rounding import rounding_noise

    return rounding_noise(model, lambda: run_tokens(model, probe.tokens), torch.tensor(probe.top_ids), dtype).logit


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
        loss_noise = scale = usual_share = share_of_rounding = 0.0
        refused = replays = 0
        by_place: dict[str, float] = {}
        caught: dict[str, list[bool]] = {}
        sizes: dict[str, tuple[float, float]] = {}
        for model_type in arguments.types:
            model = make_model(model_type, arguments.hidden, arguments.layers).to(dtype)
            model.set_attn_implementation("eager")
            torch.set_num_threads(1)
            probe = record_probe(model)
            scale = max(scale, max(max(row) for row in probe.top_logits))
            usual = replay_probe(model, probe).allowed_logit_difference
            rounding = random_rounding(probe, model, name)
            for place, same in places(model):
                for replay in layouts(probe, same):
                    logits = replay.largest_logit_difference
                    by_place[place] = max(by_place.get(place, 0.0), logits)
                    loss_noise = max(loss_noise, replay.loss_difference / max(abs(probe.loss), 1.0))
                    usual_share = max(usual_share, logits / usual)
                    share_of_rounding = max(share_of_rounding, logits / rounding)
                    refused += not replay.agrees
                    replays += 1
            model.set_attn_implementation("eager")
            for drift, changes in DRIFTS.items():
                replay = replay_probe(drifted(model, changes), probe)
                caught.setdefault(drift, []).append(not replay.agrees)
                relative = replay.loss_difference / max(abs(probe.loss), 1.0)
                before = sizes.get(drift, (float("inf"), float("inf")))
                sizes[drift] = (min(before[0], relative), min(before[1], replay.largest_logit_difference))
        print(
            f"{name}: noise {loss_noise:.2e} of the loss, {max(by_place.values()):.2e} of a logit (up to {scale:.1f}): "
            f"{usual_share:.0%} of the usual tolerance ({tolerance.logit_relative:g} of the largest logit), "
            f"{share_of_rounding:.0%} of what random rounding does; "
            f"{refused} of {replays} replays refused"
        )
        print("  largest noise of a logit: " + ", ".join(f"{place} {noise:.1e}" for place, noise in by_place.items()))
        is_right &= refused == 0
        for drift, answers in caught.items():
            loss, logits = sizes[drift]
            verdict = f"{sum(answers)} of {len(answers)} caught"
            print(f"  {drift:<28} smallest {loss:.2e} of the loss, {logits:.2e} of a logit: {verdict}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
