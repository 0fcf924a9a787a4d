"""The GGUF atlas: which tensors each architecture of `general.architecture` has, and what its keys have to say.

The data is written by `tools/build_gguf_atlas.py` from gguf's lists and the loader of llama.cpp, and shipped with the
package; nothing here imports gguf, torch or transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from apr.formats.base import Checkpoint, Format
from apr.identity.atlas import Atlas, read_atlas
from apr.identity.types import Architecture, Naming

GGUF_DATA_FILE = Path(__file__).parent / "data" / "gguf.json.gz"

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_decoder_layers": "decoder_block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "value_head_dim": "attention.value_length",
        "mla_head_dim": "attention.key_length_mla",
        "mla_value_head_dim": "attention.value_length_mla",
        "rotary_dim": "rope.dimension_count",
        "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
        "num_experts": "expert_count",
        "num_shared_experts": "expert_shared_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
        "first_k_dense_replace": "leading_dense_block_count",
        "num_nextn_layers": "nextn_predict_layers",
        "q_lora_rank": "attention.q_lora_rank",
        "kv_lora_rank": "attention.kv_lora_rank",
        "ssm_conv_kernel": "ssm.conv_kernel",
        "ssm_inner_size": "ssm.inner_size",
        "ssm_state_size": "ssm.state_size",
        "ssm_time_step_rank": "ssm.time_step_rank",
        "ssm_group_count": "ssm.group_count",
        "conv_L_cache": "shortconv.l_cache",
        "relative_attention_num_buckets": "attention.relative_buckets_count",
        "rope_theta": "rope.freq_base",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "layer_norm_eps": "attention.layer_norm_epsilon",
    }
)
"""Config field to the key behind the architecture's name (gguf 0.19 `constants.Keys`)."""


class Counterpart(NamedTuple):
    """A Hugging Face class that becomes a GGUF architecture. None: not known to `source`, or to transformers."""

    class_name: str | None
    model_type: str | None
    source: str


class GgufFacts(NamedTuple):
    """What is known of a GGUF architecture beside its tensors.

    required_keys: behind the architecture's name; llama.cpp does not load a file without them. rope: how it rotates
    (`norm`, `neox`, `mrope`, `imrope`), `none`, or None where that is computed from the file. is_base_untold: the
    converter does not write the base of the rotation. counterparts: what it is made from, the namesake first; empty
    where nobody says.
    """

    required_keys: tuple[str, ...]
    rope: str | None
    is_base_untold: bool
    counterparts: tuple[Counterpart, ...]


def has_gguf_names(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of `checkpoint` bear the names of llama.cpp."""
    return checkpoint.format is Format.GGUF


@lru_cache(maxsize=1)
def load_gguf_atlas() -> Atlas:
    """The shipped GGUF atlas, read once for each process."""
    return read_atlas(GGUF_DATA_FILE)


def atlas_of(architecture: Architecture) -> Atlas:
    """The atlas that `architecture` is a member of."""
    from apr.identity.atlas import load_atlas

    return load_gguf_atlas() if architecture.naming is Naming.GGUF else load_atlas()


def gguf_facts(slug: str) -> GgufFacts:
    """The facts of the architecture `slug`, which is a member of the GGUF atlas."""
    facts = load_gguf_atlas().head["facts"][slug]
    counterparts = tuple(Counterpart(*row) for row in facts["counterparts"])
    return GgufFacts(tuple(facts["keys"]), facts["rope"], facts["is_base_untold"], counterparts)


def hugging_face_names(slug: str) -> tuple[str, ...]:
    """What the architecture `slug` is made from, as `Qwen2ForCausalLM`, or a model type where no class is named."""
    known = [each for each in gguf_facts(slug).counterparts if each.model_type is not None]
    return tuple(dict.fromkeys(str(each.class_name or each.model_type) for each in known))


@lru_cache(maxsize=1)
def slugs_by_counterpart() -> Mapping[str, tuple[str, ...]]:
    """Class name or model type of Hugging Face to the GGUF architectures made from it."""
    found: dict[str, list[str]] = {}
    for slug, facts in load_gguf_atlas().head["facts"].items():
        for class_name, model_type, _ in facts["counterparts"]:
            for name in (class_name, model_type):
                if name is not None and slug not in found.setdefault(name, []):
                    found[name].append(slug)
    return MappingProxyType({name: tuple(slugs) for name, slugs in found.items()})
