"""Small PEFT adapters, saved by PEFT itself over a small model, and copies of them with something wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from apr.loading.quiet import quiet_zoo

State = dict[str, torch.Tensor]


def save_kind(base: Path, directory: Path, kind: str, **config: Any) -> Path:
    """An adapter of any kind of PEFT (`IA3Config`, ...) over the model in `base`, every trained tensor random."""
    import peft
    import transformers

    with quiet_zoo():
        settings = getattr(peft, kind)(task_type="CAUSAL_LM", **config)
        model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), settings)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter.data, std=0.5)
        model.save_pretrained(directory)
    return directory


def save_adapter(
    base: Path, directory: Path, *, auto: str = "AutoModelForCausalLM", fresh: bool = False, **config: Any
) -> Path:
    """A LoRA adapter over the model in `base`, every tensor away from zero unless fresh, as training leaves it."""
    import peft
    import transformers

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **config}
    with quiet_zoo():
        model = peft.get_peft_model(getattr(transformers, auto).from_pretrained(base), peft.LoraConfig(**settings))
        for parameter in model.parameters():
            if not fresh and parameter.requires_grad:
                torch.nn.init.normal_(parameter.data, std=0.5)
        model.save_pretrained(directory)
    return directory


def mutate(source: Path, target: Path, change: Callable[[State], State], **config: Any) -> Path:
    """A copy of an adapter directory with other tensors, or other fields in its config."""
    shutil.copytree(source, target)
    weights = target / "adapter_model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in change(load_file(weights)).items()}
    save_file(state, weights, metadata={"format": "pt"})
    recorded = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**recorded, **config}))
    return target


def same(state: State) -> State:
    return state


def without_prefix(state: State) -> State:
    return {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}


def doubled(state: State) -> State:
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}


def named(state: State) -> State:
    return {name.replace(".weight", ".style.weight"): tensor for name, tensor in state.items()}


def named_default(state: State) -> State:
    return {name.replace(".weight", ".default.weight"): tensor for name, tensor in state.items()}


def in_parallel(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def half_without_prefix(state: State) -> State:
    return {
        name.removeprefix("base_model.model.") if "layers.1" in name else name: each for name, each in state.items()
    }


def compiled(state: State) -> State:
    return {name.replace(".model.layers.", ".model._orig_mod.layers."): tensor for name, tensor in state.items()}


def zero_outputs(state: State) -> State:
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in state.items()}


def one_zero_output(state: State) -> State:
    zero = next(name for name in state if "lora_B" in name)
    return {**state, zero: state[zero] * 0}


def zero_inputs(state: State) -> State:
    return {name: tensor * 0 if "lora_A" in name else tensor for name, tensor in state.items()}


def first_layer_only(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "layers.0" in name}


def inputs_only(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "lora_A" in name}


def another_base(state: State) -> State:
    return {name.replace("self_attn", "attention"): tensor for name, tensor in state.items()}


def hollow(state: State) -> State:
    return {name: tensor[:0] for name, tensor in state.items()}


def not_finite(state: State) -> State:
    return {name: tensor / 0 for name, tensor in state.items()}


def without_lora(state: State) -> State:
    return {"base_model.model.lm_head.weight": torch.rand(4, 4)}


def narrower(state: State) -> State:
    """As over a base with half the width."""
    return {name: tensor[:, : tensor.shape[1] // 2] if "lora_A" in name else tensor for name, tensor in state.items()}


def deeper(state: State) -> State:
    """As over a base with more layers."""
    last = {name: tensor for name, tensor in state.items() if "layers.1." in name}
    more = {name.replace("layers.1.", "layers.7."): tensor.clone() for name, tensor in last.items()}
    return {**state, **more}


def strayed(state: State) -> State:
    return {**state, "base_model.model.model.layers.0.self_attn.gate_extra.weight": torch.rand(4, 4)}


def without_head(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "lora" in name}


def without_magnitudes(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "magnitude" not in name}


def without_one_magnitude(state: State) -> State:
    one = next(name for name in state if "magnitude" in name)
    return {name: tensor for name, tensor in state.items() if name != one}


def zero_magnitudes(state: State) -> State:
    return {name: tensor * 0 if "magnitude" in name else tensor for name, tensor in state.items()}


def short_magnitudes(state: State) -> State:
    return {name: tensor[:3] if "magnitude" in name else tensor for name, tensor in state.items()}


def without_biases(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("bias")}


def without_rows(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "trainable_tokens_delta" not in name}


def without_diagonals(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "lora_diag" not in name}


def zero_head(state: State) -> State:
    return {name: tensor * 0 if "lm_head" in name else tensor for name, tensor in state.items()}


def constant_head(state: State) -> State:
    return {name: tensor * 0 + 1 if "lm_head" in name else tensor for name, tensor in state.items()}


def head_of_no_numbers(state: State) -> State:
    return {name: tensor * float("nan") if "lm_head" in name else tensor for name, tensor in state.items()}


def zero_pairs(state: State) -> State:
    return zero_inputs(zero_outputs(state))
