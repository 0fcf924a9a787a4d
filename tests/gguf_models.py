"""Tiny models as GGUF files, written by the official writer as the converters of llama.cpp lay them out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGUFWriter

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Names of the Llama family, without layer and ending, to those of GGUF."""


def gguf_name(name: str) -> str:
    """The name GGUF has for a tensor of a Qwen2 or Llama checkpoint."""
    stem, ending = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"blk.{layer[1]}.{NAMES[layer[2]]}.{ending}" if layer else f"{NAMES[stem]}.{ending}"


def write_gguf(
    directory: Path, path: Path, architecture: str, quantisation: str = "F32", tokenizer: Path | None = None
) -> Path:
    """The Qwen2 or Llama in `directory` as a GGUF file that says it is `architecture`.

    quantisation: of matrices whose rows fill its blocks. tokenizer: directory of the BPE tokenizer whose tokens it
    holds; without one they are made up, and llama.cpp cannot use them. The vocabulary stands behind the dimensions,
    and a few keys behind it, as converters write them.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants
    from safetensors.numpy import load_file

    config = json.loads((directory / "config.json").read_text())
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    _add_tokens(writer, config["vocab_size"], tokenizer)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages }}")
    writer.add_quantization_version(2)
    kind = GGMLQuantizationType[quantisation]
    for name, values in load_file(directory / "model.safetensors").items():
        is_matrix = values.ndim == 2 and values.shape[1] % GGML_QUANT_SIZES[kind][0] == 0
        chosen = kind if is_matrix else GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), quants.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: GGUFWriter, count: int, tokenizer: Path | None) -> None:
    if tokenizer is None:
        writer.add_token_list([f"<token number {row}, with a long name of its own>" for row in range(count)])
        writer.add_token_types([1] * count)
        return
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    tokens = {row: token for token, row in model["vocab"].items()}
    writer.add_tokenizer_pre("default")
    writer.add_token_list([tokens.get(row, f"[PAD{row}]") for row in range(count)])
    writer.add_token_types([3, *(1 if row in tokens else 5 for row in range(1, count))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
