"""Healthy checkpoints that look like faults."""

from __future__ import annotations

import json

import torch

from tests.faults.changes import (
    alike,
    cast,
    fp8,
    half_the_biases,
    old_gpt2,
    padded,
    quiet,
    respelled,
    taken_twice,
    tokenizer,
)
from tests.faults.edits import (
    added,
    configured,
    substituted,
    tensors,
)
from tests.faults.rows import (
    DIRECTORIES,
    TIED,
    Twin,
)
from tests.faults.tokenizers import tokenizer_files

ZERO_BIASES = quiet(tensors(r"\.bias$", lambda tensor: tensor.zero_()))
LORA = "model.layers.0.self_attn.q_proj.lora_B.weight"

TWINS: tuple[Twin, ...] = (
    Twin("A", "qwen2"),
    Twin("A", "llama", base="llama"),
    Twin("A", "gemma", base="gemma"),
    Twin("A", "phi3, fused qkv", base="phi3"),
    Twin("A", "gpt2", base="gpt2"),
    Twin("A", "biased llama", base="llama", options={"attention_bias": True, "mlp_bias": True}),
    Twin("B", "qwen3", base="qwen3"),
    Twin("A", "queries without a low rank, as Moonlight has them", base="deepseek_v3", options={"q_lora_rank": None}),
    Twin("A", "a flag that only the config shows", base="qwen2_moe", options={"qkv_bias": False}),
    Twin("B", "gpt2, saved from the base model", substituted(r"^transformer\.", ""), base="gpt2"),
    Twin("B", "gpt2, saved from the base model with its masks", old_gpt2, base="gpt2"),
    Twin("B", "tied qwen2, saved from the base model", substituted(r"^model\.", ""), options=TIED),
    Twin("C", "as many experts as its class proposes", base="doge"),
    Twin("C", "biases of experts at their initial zero", ZERO_BIASES, base="gpt_oss"),
    Twin("C", "mixture of experts", base="qwen3_moe"),
    Twin("C", "zero-initialised biases", ZERO_BIASES),
    Twin("D", "all kinds of names", base="gpt_neox"),
    Twin("E", "loaded and left alone", base="mistral"),
    Twin(
        "F",
        "scaled rotary table",
        base="llama",
        options={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    Twin("G", "one layer", options={"num_hidden_layers": 1}),
    Twin(
        "H",
        "fresh as a whole",
        quiet(tensors(r"_proj\.weight|embed|head", lambda tensor: torch.randn(tensor.shape) * 0.02)),
    ),
    Twin("H", "layers taken twice, as depth up-scaling does", taken_twice),
    Twin("H", "biases of half the layers at zero", half_the_biases),
    Twin("H", "a state matrix that all layers have alike", alike, base="mamba"),
    Twin("H", "padded vocabulary", padded, containers=DIRECTORIES),
    Twin(
        "I", "gemma, gains at their initial zero", quiet(tensors("norm", lambda tensor: tensor.zero_())), base="gemma"
    ),
    Twin(
        "I", "llama, gains at their initial one", quiet(tensors("norm", lambda tensor: tensor.fill_(1))), base="llama"
    ),
    Twin("I", "llama, small gains", quiet(tensors("norm", lambda tensor: tensor.abs_().mul_(0.1))), base="llama"),
    Twin("J", "tied", options=TIED),
    Twin("J", "untied", options={"tie_word_embeddings": False}),
    Twin(
        "J",
        "tied, stored again",
        lambda draft: draft.state.update({"lm_head.weight": draft.state["model.embed_tokens.weight"].clone()}),
        options=TIED,
    ),
    Twin(
        "I", "gemma2, gains at their initial zero", quiet(tensors("norm", lambda tensor: tensor.zero_())), base="gemma2"
    ),
    Twin("K", "no number in a key that no class knows", configured(score_of_the_judge=float("nan"))),
    Twin("K", "rope in the older spelling", respelled),
    Twin("L", "bf16", cast(torch.bfloat16)),
    Twin("L", "fp16", cast(torch.float16)),
    Twin("L", "fp8 with block scales", fp8, containers=DIRECTORIES),
    Twin("L", "fp8 with plain scales", lambda draft: fp8(draft, suffix="_scale"), containers=DIRECTORIES),
    Twin(
        "L",
        "fp8 cast without scales",
        quiet(tensors(r"_proj\.weight", lambda tensor: tensor.to(torch.float8_e4m3fn))),
        containers=DIRECTORIES,
    ),
    Twin(
        "M",
        "a fresh lora_B, declared",
        added(LORA, torch.zeros(64, 4)),
        allowed={LORA: "the adapter is attached afterwards"},
    ),
    Twin(
        "M",
        "renamed but declared",
        added("model.rotary_emb.inverse", torch.ones(8)),
        allowed={"model.rotary_emb.inverse": "a buffer under its older name"},
    ),
    Twin(
        "N",
        "the same tokenizer in other files",
        tokenizer(
            recorded=tokenizer_files(300),
            used={name: json.dumps(json.loads(content)).encode() for name, content in tokenizer_files(300).items()},
        ),
        containers=DIRECTORIES,
    ),
    Twin("N", "a vocabulary smaller than the rows", lambda draft: setattr(draft, "tokenizer", tokenizer_files(300))),
)
