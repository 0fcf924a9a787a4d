"""What neither gguf's lists nor the loader of llama.cpp say, each line with its reason."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

ENCODERS = frozenset(
    {
        *("clip", "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
        *("eurobert", "gemma-embedding", "llama-embed", "t5encoder", "wavtokenizer-dec"),
        *("dream", "llada", "llada-moe", "rnd1"),
    }
)
"""Architectures that do not predict the next token: encoders, and those that llama.cpp runs as masked diffusion
(`llm_arch_is_diffusion`: attention in both directions)."""

SEQ2SEQ = frozenset({"t5"})

NAMES_ONLY = frozenset({"clip", "gptj", "wavtokenizer-dec", "kimi-linear"})
"""Architectures of which only the names are known: `clip` holds one of many vision and audio towers, `gptj` was never
loaded by llama.cpp, the shapes of `wavtokenizer-dec` follow from other hyperparameters than those of a language model, and
`kimi-linear` has tensors of one name under several shapes."""

SPARSE_ONLY = frozenset({"nemotron_h_moe"})
"""Architectures that gguf lists with and without experts, and that are converted from models with experts only."""

QKV_BIASES = {
    **dict.fromkeys(("qwen", "chatglm", "codeshell", "qwen2vl", "dream", "bert", "pangu-embedded"), "must"),
    **dict.fromkeys(("baichuan", "orion", "xverse", "plamo", "exaone", "internlm2", "grok", "refact", "jamba"), "none"),
    **dict.fromkeys(
        ("minicpm", "arctic", "deepseek", "deci", "llama-embed", "paddleocr", "ernie4_5-moe"), "with output"
    ),
    "granitehybrid": "with output",
}
"""Whether q, k and v have biases where the templates of the zoo do not tell, as the classes themselves are written: always
in Qwen-7B, ChatGLM, CodeShell, Dream, in the text model of Qwen2-VL and in BERT and RoBERTa; never in the published models
of the second group; by one switch for q, k, v and the output in the third."""

ROPE_UNTOLD = frozenset({"baichuan"})
"""Architectures of which some models rotate and others do not: Baichuan 7B does, 13B does not."""

LAYERED: tuple[tuple[str, str, str], ...] = (
    ("gemma4", r"blk\.\{layer\}\.attn_(k|k_norm)\.weight", "kv_layers"),
    ("gemma4", r"blk\.\{layer\}\.attn_v\.weight", "value_layers"),
    ("mimo2", r"blk\.\{layer\}\.attn_sinks\.weight", "windowed_layers"),
    ("mimo2", r"blk\.\{layer\}\.(ffn_\w+_exps|ffn_gate_inp|exp_probs_b)\.\w+", "moe_layers"),
    ("mimo2", r"blk\.\{layer\}\.ffn_(gate|up|down)\.weight", "not moe_layers"),
    ("step35", r"blk\.\{layer\}\.(ffn_\w+_(sh)?exps?|ffn_gate_inp|exp_probs_b)\.\w+", "moe_layers"),
    ("step35", r"blk\.\{layer\}\.ffn_(gate|up|down)\.weight", "not moe_layers"),
    ("jamba", r"blk\.\{layer\}\.ffn_gate_inp\.weight", "moe_layers"),
)
"""Optional tensors of which some layers have all and others none: (architecture, pattern, the layers). The loader asks
for each layer alone; `not` means the other layers, and such a tensor is required there."""

BUNDLES: tuple[tuple[str, str], ...] = (
    (r"rope_factors_(long|short)\.weight", "rope factors"),
    (r"blk\.\{layer\}\.ffn_(gate|up|down)\.bias", "feed-forward biases"),
    (r"blk\.\{layer\}\.ffn_(gate|up|down)_exps\.bias", "expert biases"),
    (r"blk\.\{layer\}\.ffn_(gate|up|down)_shexp\.weight", "shared expert"),
    (r"blk\.\{layer\}\.attn_(q|k)_norm\.weight", "norms of q and k"),
    (r"blk\.\{layer\}\.attn_(q|k)_norm\.bias", "biases of the norms of q and k"),
    (r"blk\.\{layer\}\.nextn\.(eh_proj|enorm|hnorm)\.weight", "further tokens"),
    (r"per_layer_\w+\.weight|blk\.\{layer\}\.(inp_gate|proj|post_norm)\.weight", "inputs per layer"),
)
"""Optional tensors that come together or not at all; every other optional tensor stands for itself, in all layers or in
none."""

SLUGS_OF_TRANSFORMERS = {
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "t5encoder": "t5",
}
"""Where transformers' GGUF loader spells a model type otherwise than gguf (`load_gguf_checkpoint`)."""
