"""Small GGUF models as the converter of llama.cpp writes them: names and shapes by hand, none from our atlas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apr.formats.base import Checkpoint, Format, Stamp, StampKey, TensorEntry
from apr.formats.dtypes import DType

WIDTH, ROWS, INNER, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, CONTEXT, EXPERTS, EXPERT_INNER = (
    64,
    96,
    80,
    2,
    4,
    2,
    16,
    48,
    6,
    24,
)
KV_WIDTH = KV_HEADS * HEAD_WIDTH
FUSED = WIDTH + 2 * KV_WIDTH
Shapes = Mapping[str, tuple[int, ...]]

EMBEDDING: Shapes = {"token_embd.weight": (ROWS, WIDTH)}
ENDS: Shapes = {**EMBEDDING, "output_norm.weight": (WIDTH,)}
UNTIED: Shapes = {**ENDS, "output.weight": (ROWS, WIDTH)}
BIASED_ENDS: Shapes = {**ENDS, "output_norm.bias": (WIDTH,)}
SPLIT: Shapes = {
    "attn_norm.weight": (WIDTH,),
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (KV_WIDTH, WIDTH),
    "attn_v.weight": (KV_WIDTH, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
}
SPLIT_BIASES: Shapes = {"attn_q.bias": (WIDTH,), "attn_k.bias": (KV_WIDTH,), "attn_v.bias": (KV_WIDTH,)}
QK_NORMS: Shapes = {"attn_q_norm.weight": (HEAD_WIDTH,), "attn_k_norm.weight": (HEAD_WIDTH,)}
GATED: Shapes = {
    "ffn_norm.weight": (WIDTH,),
    "ffn_gate.weight": (INNER, WIDTH),
    "ffn_up.weight": (INNER, WIDTH),
    "ffn_down.weight": (WIDTH, INNER),
}
AROUND: Shapes = {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
PLAIN: Shapes = {"ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
PLAIN_BIASES: Shapes = {"ffn_up.bias": (INNER,), "ffn_down.bias": (WIDTH,)}
BIASED_NORMS: Shapes = {f"{name}.{part}": (WIDTH,) for name in ("attn_norm", "ffn_norm") for part in ("weight", "bias")}
WHOLE: Shapes = {"attn_qkv.weight": (3 * WIDTH, WIDTH), "attn_output.weight": (WIDTH, WIDTH)}
WHOLE_BIASES: Shapes = {"attn_qkv.bias": (3 * WIDTH,), "attn_output.bias": (WIDTH,)}
GPT: Shapes = {**BIASED_NORMS, **WHOLE, **WHOLE_BIASES, **PLAIN, **PLAIN_BIASES}


def _experts(inner: int) -> Shapes:
    return {
        "ffn_gate_inp.weight": (EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (EXPERTS, inner, WIDTH),
        "ffn_up_exps.weight": (EXPERTS, inner, WIDTH),
        "ffn_down_exps.weight": (EXPERTS, WIDTH, inner),
    }


def _shared(inner: int) -> Shapes:
    return {
        "ffn_gate_shexp.weight": (inner, WIDTH),
        "ffn_up_shexp.weight": (inner, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, inner),
    }


def _model(ends: Shapes, layer: Shapes, *others: Shapes) -> dict[str, tuple[int, ...]]:
    """A model whose layers are `layer`, or with `others` each layer its own."""
    layers = (layer, *others) if others else (layer,) * LAYERS
    return {**ends, **{f"blk.{at}.{name}": shape for at, rows in enumerate(layers) for name, shape in rows.items()}}


ATTENDING_KEYS = {
    "block_count": LAYERS,
    "embedding_length": WIDTH,
    "context_length": CONTEXT,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
}
RMS = {"attention.layer_norm_rms_epsilon": 1e-6}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
ROPE = {"rope.freq_base": 10000.0}
ALL_HEADS = {"attention.head_count_kv": HEADS}
ROPED = {**ATTENDING_KEYS, **RMS, **ROPE}


class Model(NamedTuple):
    """An architecture: its slug, its tensors, the keys below its name. twins: slugs that fit the tensors as well."""

    slug: str
    shapes: dict[str, tuple[int, ...]]
    keys: dict[str, Any]
    twins: tuple[str, ...] = ()


MLA, NOPE, ROTATED, VALUE = 20, 8, 4, 12
_LATENT: Shapes = {
    "attn_norm.weight": (WIDTH,),
    "attn_q.weight": (HEADS * (NOPE + ROTATED), WIDTH),
    "attn_kv_a_mqa.weight": (MLA + ROTATED, WIDTH),
    "attn_kv_a_norm.weight": (MLA,),
    "attn_k_b.weight": (HEADS, MLA, NOPE),
    "attn_v_b.weight": (HEADS, VALUE, MLA),
    "attn_output.weight": (WIDTH, HEADS * VALUE),
}
_LATENT_KEYS = {
    "attention.head_count_kv": 1,
    "attention.key_length": MLA + ROTATED,
    "attention.value_length": MLA,
    "attention.key_length_mla": NOPE + ROTATED,
    "attention.value_length_mla": VALUE,
    "attention.kv_lora_rank": MLA,
    "rope.dimension_count": ROTATED,
    "leading_dense_block_count": 1,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_shared_count": 2,
    "expert_feed_forward_length": EXPERT_INNER,
}
STATE, STEP, KERNEL = 6, 4, 3
_MAMBA: Shapes = {
    "attn_norm.weight": (WIDTH,),
    "ssm_in.weight": (4 * WIDTH, WIDTH),
    "ssm_conv1d.weight": (2 * WIDTH, KERNEL),
    "ssm_conv1d.bias": (2 * WIDTH,),
    "ssm_x.weight": (STEP + 2 * STATE, 2 * WIDTH),
    "ssm_dt.weight": (2 * WIDTH, STEP),
    "ssm_dt.bias": (2 * WIDTH,),
    "ssm_a": (2 * WIDTH, STATE),
    "ssm_d": (2 * WIDTH,),
    "ssm_out.weight": (WIDTH, 2 * WIDTH),
}
_MAMBA_KEYS = {
    "block_count": LAYERS,
    "embedding_length": WIDTH,
    "context_length": CONTEXT,
    "attention.head_count": 0,
    "feed_forward_length": 0,
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": 2 * WIDTH,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": STEP,
}
_BERT: Shapes = {
    **{name: shape for name, shape in {**SPLIT, **PLAIN}.items() if name != "attn_norm.weight"},
    "attn_k.weight": (WIDTH, WIDTH),
    "attn_v.weight": (WIDTH, WIDTH),
    **{f"attn_{letter}.bias": (WIDTH,) for letter in "qkv"},
    **{f"{name}.{part}": (WIDTH,) for name in ("attn_output_norm", "layer_output_norm") for part in ("weight", "bias")},
    **PLAIN_BIASES,
    "attn_output.bias": (WIDTH,),
}
_BERT_ENDS: Shapes = {
    **EMBEDDING,
    "position_embd.weight": (CONTEXT, WIDTH),
    "token_types.weight": (2, WIDTH),
    **{f"token_embd_norm.{part}": (WIDTH,) for part in ("weight", "bias")},
}

MODELS = (
    Model("llama", _model(UNTIED, {**SPLIT, **GATED}), ROPED),
    Model(
        "llama",
        _model(UNTIED, {**SPLIT, "ffn_norm.weight": (WIDTH,), **_experts(INNER)}),
        {**ROPED, "expert_count": EXPERTS, "expert_used_count": 2},
    ),
    Model("qwen2", _model(ENDS, {**SPLIT, **SPLIT_BIASES, **GATED}), ROPED),
    Model("qwen3", _model(ENDS, {**SPLIT, **QK_NORMS, **GATED}), ROPED),
    Model(
        "qwen2moe",
        _model(
            UNTIED,
            {
                **SPLIT,
                **SPLIT_BIASES,
                "ffn_norm.weight": (WIDTH,),
                **_experts(EXPERT_INNER),
                **_shared(INNER),
                "ffn_gate_inp_shexp.weight": (WIDTH,),
            },
        ),
        {**ROPED, "expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": EXPERT_INNER},
    ),
    Model(
        "qwen3moe",
        _model(UNTIED, {**SPLIT, **QK_NORMS, "ffn_norm.weight": (WIDTH,), **_experts(EXPERT_INNER)}),
        {**ROPED, "expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": EXPERT_INNER},
    ),
    Model(
        "gemma",
        _model(ENDS, {**SPLIT, **GATED}),
        {**ATTENDING_KEYS, **RMS, "attention.key_length": HEAD_WIDTH},
        ("llama",),
    ),
    Model("gemma2", _model(ENDS, {**SPLIT, **GATED, **AROUND}), {**ROPED, "attention.sliding_window": 8}),
    Model("gemma3", _model(ENDS, {**SPLIT, **QK_NORMS, **GATED, **AROUND}), {**ROPED, "attention.sliding_window": 8}),
    Model(
        "phi3",
        _model(
            UNTIED,
            {
                "attn_norm.weight": (WIDTH,),
                "ffn_norm.weight": (WIDTH,),
                "attn_qkv.weight": (FUSED, WIDTH),
                "attn_output.weight": (WIDTH, WIDTH),
                "ffn_up.weight": (2 * INNER, WIDTH),
                "ffn_down.weight": (WIDTH, INNER),
            },
        ),
        ROPED,
    ),
    Model(
        "gpt2",
        _model({**BIASED_ENDS, "position_embd.weight": (CONTEXT, WIDTH)}, GPT),
        {**ATTENDING_KEYS, **ALL_HEADS, **LAYER_NORM},
        ("mpt",),
    ),
    Model(
        "gptneox",
        _model({**BIASED_ENDS, "output.weight": (ROWS, WIDTH)}, GPT),
        {**ATTENDING_KEYS, **ALL_HEADS, **LAYER_NORM, **ROPE, "use_parallel_residual": True},
        ("mpt",),
    ),
    Model(
        "falcon",
        _model(
            BIASED_ENDS,
            {
                "attn_norm.weight": (WIDTH,),
                "attn_norm.bias": (WIDTH,),
                "attn_qkv.weight": (FUSED, WIDTH),
                "attn_output.weight": (WIDTH, WIDTH),
                **PLAIN,
            },
        ),
        {**ATTENDING_KEYS, **LAYER_NORM},
    ),
    Model(
        "bloom",
        _model({**BIASED_ENDS, **{f"token_embd_norm.{part}": (WIDTH,) for part in ("weight", "bias")}}, GPT),
        {**ATTENDING_KEYS, **ALL_HEADS, **LAYER_NORM},
    ),
    Model(
        "mpt",
        _model(ENDS, {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,), **WHOLE, **PLAIN}),
        {**ATTENDING_KEYS, **ALL_HEADS, **LAYER_NORM, "attention.max_alibi_bias": 8.0},
    ),
    Model(
        "starcoder2",
        _model(
            BIASED_ENDS,
            {**SPLIT, **BIASED_NORMS, **SPLIT_BIASES, "attn_output.bias": (WIDTH,), **PLAIN, **PLAIN_BIASES},
        ),
        {**ATTENDING_KEYS, **LAYER_NORM, **ROPE},
    ),
    Model("mamba", _model(ENDS, _MAMBA), {**_MAMBA_KEYS, **RMS}),
    Model(
        "deepseek2",
        _model(
            UNTIED,
            {**_LATENT, **GATED},
            {**_LATENT, "ffn_norm.weight": (WIDTH,), **_experts(EXPERT_INNER), **_shared(2 * EXPERT_INNER)},
        ),
        {**ROPED, **_LATENT_KEYS},
    ),
    Model("bert", _model(_BERT_ENDS, _BERT), {**ATTENDING_KEYS, **ALL_HEADS, **LAYER_NORM, "attention.causal": False}),
)
SLUGS = tuple(dict.fromkeys(model.slug for model in MODELS))


def name_of(model: Model) -> str:
    """A name for test ids: the slug, and what is special of it."""
    return f"{model.slug}-sparse" if model.slug == "llama" and "expert_count" in model.keys else model.slug


def model_of(slug: str) -> Model:
    """The first model of an architecture."""
    return next(model for model in MODELS if model.slug == slug)


def metadata_of(model: Model, label: str | None = None) -> dict[str, Any]:
    """The keys as a file holds them; label: the architecture they are written for, if not the model's own."""
    slug = label or model.slug
    return {"general.architecture": slug, **{f"{slug}.{key}": value for key, value in model.keys.items()}}


def headers_of(
    shapes: Shapes, label: str, metadata: Mapping[str, Any] | None = None, rows: int | None = ROWS
) -> Checkpoint:
    """A GGUF checkpoint that is nothing but headers, stamped `label`."""
    tensors = {name: TensorEntry(name, DType.F32, shape, None, 0, 4) for name, shape in shapes.items()}  # type: ignore[arg-type]
    return Checkpoint(
        path=Path("model.gguf"),
        format=Format.GGUF,
        files=(),
        tensors=tensors,
        stamps=(Stamp(StampKey.GGUF_ARCHITECTURE, label, "general.architecture"),),
        config=None,
        config_place=None,
        typed={} if rows is None else {"vocab_size": rows},
        metadata=metadata or {},
    )


def write_gguf(
    path: Path, shapes: Shapes, metadata: Mapping[str, Any], token_count: int = ROWS, **writer_options: Any
) -> Path:
    """A file at `path`, or parts of it there, by gguf's own writer: small random numbers, norm gains around one."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, str(metadata["general.architecture"]), **writer_options)
    for key, value in metadata.items():
        if key != "general.architecture":
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}[type(value)]
            add(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(token_count)])
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        gain = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        writer.add_tensor(name, (0.02 * random.standard_normal(shape) + gain).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
