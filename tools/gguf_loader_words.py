"""What the words of llama.cpp's loader mean here: its dimensions as config fields, its conditions as presence rules."""

from __future__ import annotations

from typing import NamedTuple

FIELDS = {
    "n_embd": "hidden_size",
    "n_vocab": "vocab_size",
    "n_ff": "intermediate_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_embd_head": "head_dim",
    "n_embd_head_k": "head_dim",
    "n_embd_head_v": "value_head_dim",
    "n_embd_k_gqa": "(num_key_value_heads*head_dim)",
    "n_embd_v_gqa": "(num_key_value_heads*value_head_dim)",
    "n_embd_gqa": "(num_key_value_heads*value_head_dim)",
    "n_rot": "rotary_dim",
    "n_expert": "num_experts",
    "n_ff_exp": "moe_intermediate_size",
    "n_ff_shexp": "shared_expert_intermediate_size",
    "n_ff_chexp": "chunk_expert_intermediate_size",
    "n_expert_shared": "num_shared_experts",
    "n_token_types": "type_vocab_size",
    "n_ctx_train": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_layer_all": "num_hidden_layers",
    "n_lora_q": "q_lora_rank",
    "n_lora_kv": "kv_lora_rank",
    "n_embd_head_k_mla": "mla_head_dim",
    "n_embd_head_v_mla": "mla_value_head_dim",
    "ssm_d_inner": "ssm_inner_size",
    "ssm_d_conv": "ssm_conv_kernel",
    "ssm_d_state": "ssm_state_size",
    "ssm_dt_rank": "ssm_time_step_rank",
    "ssm_n_group": "ssm_group_count",
    "n_rel_attn_bkts": "relative_attention_num_buckets",
    "n_altup": "altup_num_inputs",
    "laurel_rank": "laurel_rank",
    "n_embd_altup": "hidden_size_per_layer_input",
    "n_embd_per_layer": "hidden_size_per_layer_input",
    "n_shortconv_l_cache": "conv_L_cache",
    "indexer_head_size": "index_head_dim",
    "indexer_n_head": "index_n_heads",
    "n_cls_out": "num_labels",
    "time_mix_extra_dim": "time_mix_extra_dim",
    "time_decay_extra_dim": "time_decay_extra_dim",
    "wkv_head_size": "wkv_head_size",
    "n_lora_decay": "decay_lora_rank",
    "n_lora_iclr": "iclr_lora_rank",
    "n_lora_value_res_mix": "value_residual_mix_lora_rank",
    "n_lora_gate": "gate_lora_rank",
}
"""Hyperparameters of the loader to config fields; others become `?`."""


class Condition(NamedTuple):
    """What stands under a condition. flag: a switch of the whole model, with its value. place: on which layers.

    is_optional: may be absent altogether. is_never: does not apply. slugs: holds for these architectures only.
    """

    flag: tuple[str, bool] | None = None
    place: tuple[str, str, object] | None = None
    is_optional: bool = False
    is_never: bool = False
    slugs: frozenset[str] | None = None


ALWAYS = Condition()
NEVER = Condition(is_never=True)
OPTIONAL = Condition(is_optional=True)
DENSE = Condition(place=("<", "layer", "first_k_dense_replace"))
SPARSE = Condition(place=(">=", "layer", "first_k_dense_replace"))
RECURRENT = Condition(place=("item", "recurrent_layers", 1))
ATTENDING = Condition(place=("not item", "recurrent_layers", 1))
MOE_LAYER = Condition(place=("item", "moe_layers", 1))
NOT_MOE_LAYER = Condition(place=("not item", "moe_layers", 1))
NEXTN = Condition(place=("item", "nextn_layers", 1), is_optional=True)

_LEADING = r"(?:static_cast<uint32_t>\(i\)|i) >= (?:\(int\) |static_cast<int>\()?hparams\.n_layer_dense_lead\)?"
_LEADING_DENSE = r"i < \(int\) hparams\.n_layer_dense_lead(?: \|\| \(i >= n_layer\))?"
_ERNIE = r"arch == LLM_ARCH_ERNIE4_5_MOE && static_cast<uint32_t>\(i\) >= hparams\.n_layer_dense_lead"
_ERNIE_DENSE = frozenset({"ernie4_5", "paddleocr"})
_DECI = frozenset({"deci"})
_LFM2_DENSE = frozenset({"lfm2"})
_LAYERED = frozenset({"llama4", "jamba", "nomic-bert-moe"})

CONDITIONS: tuple[tuple[str, Condition], ...] = (
    (r"(output|tok_embd) == NULL|!output|layer\.ffn_gate_up_exps == nullptr", ALWAYS),
    (r"hparams\.rope_scaling_type_train == LLAMA_ROPE_SCALING_TYPE_LONGROPE", OPTIONAL),
    (r"!\(hparams\.rope_scaling_type_train == LLAMA_ROPE_SCALING_TYPE_LONGROPE\)", OPTIONAL),
    (r"n_expert == 0|!\(n_expert [>!]=? ?0\)", Condition(flag=("is_sparse", False))),
    (r"!\(n_expert == 0\)|n_expert [>!]=? ?0", Condition(flag=("is_sparse", True))),
    (r"hparams\.n_ff_shexp > 0|n_expert_shared > 0|n_embd_per_layer > 0|has_expert|n_layer >= 64", OPTIONAL),
    (_ERNIE, NEVER._replace(slugs=_ERNIE_DENSE)),
    (rf"!\({_ERNIE}\)", ALWAYS._replace(slugs=_ERNIE_DENSE)),
    (_ERNIE, SPARSE),
    (rf"!\({_ERNIE}\)", DENSE),
    (r"is_moe_layer", NEVER._replace(slugs=_LFM2_DENSE)),
    (r"!\(is_moe_layer\)", ALWAYS._replace(slugs=_LFM2_DENSE)),
    (
        r"is_moe_layer|use_moe|layer\.ffn_gate_inp|hparams\.moe_every_n_layers > 0 .*",
        MOE_LAYER._replace(slugs=_LAYERED),
    ),
    (
        r"!\((is_moe_layer|use_moe|layer\.ffn_gate_inp|hparams\.moe_every_n_layers > 0 .*)\)",
        NOT_MOE_LAYER._replace(slugs=_LAYERED),
    ),
    (rf"{_LEADING}|is_moe_layer|use_moe|!\({_LEADING_DENSE}\)", SPARSE),
    (rf"!\({_LEADING}\)|!\(is_moe_layer\)|!\(use_moe\)|{_LEADING_DENSE}", DENSE),
    (r"hparams\.is_recr\(i\)|!\(!hparams\.is_recr\((i|il)\)\)|is_mamba_layer|n_head_kv == 0", RECURRENT),
    (r"!\(hparams\.is_recr\(i\)\)|!hparams\.is_recr\((i|il)\)|!\(is_mamba_layer\)|!\(n_head_kv == 0\)", ATTENDING),
    (r"hparams\.n_ff\(i\) == 0", Condition(place=("item", "attention_layers", 1))),
    (r"!\(hparams\.n_ff\(i\) == 0\)", Condition(place=("item", "feed_forward_layers", 1))),
    (r"n_head_kv == 0 && n_head > 0", Condition(place=("item", "linear_layers", 1), slugs=_DECI)),
    (r"n_head_kv > 0", Condition(place=("item", "attention_layers", 1), slugs=_DECI)),
    (r"!\(n_head_kv == 0 && n_head > 0\)", ALWAYS._replace(slugs=_DECI)),
    (r"n_ff > 0", Condition(place=("item", "feed_forward_layers", 1), slugs=_DECI)),
    (r"i >= n_layer|is_nextn", NEXTN),
    (r"!is_nextn|!hparams\.is_swa\(i\)|!layer\.(wqkv|ffn_post_norm|ssm_(q|k|v)_conv|ssm_a)", ALWAYS),
    (r"q_lora_rank > 0|layer\.attn_q_a_norm", Condition(flag=("has_q_lora", True))),
    (r"!\((q_lora_rank > 0|layer\.attn_q_a_norm)\)", Condition(flag=("has_q_lora", False))),
    (r"is_mla|!layer\.wkv_b", Condition(flag=("is_mla", True))),
    (r"!\(is_mla\)", Condition(flag=("is_mla", False))),
    (r"i != 0|!\(i == 0\)", Condition(place=("!=", "layer", "0"))),
    (r"!\(i != 0\)|i == 0", Condition(place=("==", "layer", "0"))),
)
"""Patterns of a condition to what they mean, the first that fits; `!(...)` is an else branch."""

SAME_LOADER = {
    "llama_model_llama_embed": "llama_model_llama",
    "llama_model_mistral4": "llama_model_deepseek2",
    "llama_model_nemotron_h_moe": "llama_model_nemotron_h",
    "llama_model_ernie4_5_moe": "llama_model_ernie4_5",
    "llama_model_paddleocr": "llama_model_ernie4_5",
    "llama_model_hunyuan_dense": "llama_model_hunyuan_vl",
}
"""Classes of the loader that take the tensors of another one by inheritance."""
