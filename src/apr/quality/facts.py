"""The facts that quality is judged by, under one name for every container.

Named tuples, not dataclasses: `apr inspect` imports this, and a dataclass takes eight times as long to define.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.formats.base import Checkpoint, Format, Stamp, StampKey

if TYPE_CHECKING:
    from apr.identity.types import Verdict

DIMENSION_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "hidden_dim", "dim"),
    "num_layers": ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"),
    "num_heads": ("num_attention_heads", "num_heads", "n_head", "n_heads", "decoder_attention_heads"),
    "num_kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
"""APR's name of a dimension to the names that config classes give it (transformers 5, `attribute_map` of each)."""


class IdentityStamps(NamedTuple):
    """The three identity stamps of APR metadata; for other containers what `config.json`, or a GGUF key, says in their
    place."""

    architecture: Stamp | None
    hf_architecture: Stamp | None
    hf_model_type: Stamp | None


def identity_stamps(checkpoint: Checkpoint) -> IdentityStamps:
    """The stamps of `checkpoint` under APR's names.

    An `.apr` answers with its own keys only, since those are what other readers look at; a directory or a bare
    `.safetensors` answers with `architectures[0]` and `model_type`, the latter also as architecture. GGUF has one
    stamp, the architecture.
    """
    found = {stamp.key: stamp for stamp in checkpoint.stamps if stamp.value.strip()}
    if checkpoint.format is Format.GGUF:
        return IdentityStamps(found.get(StampKey.GGUF_ARCHITECTURE), None, None)
    if checkpoint.format is not Format.APR2:
        model_type = found.get(StampKey.CONFIG_MODEL_TYPE)
        return IdentityStamps(model_type, found.get(StampKey.CONFIG_ARCHITECTURES), model_type)
    return IdentityStamps(
        found.get(StampKey.APR_ARCHITECTURE),
        found.get(StampKey.APR_HF_ARCHITECTURE),
        found.get(StampKey.APR_HF_MODEL_TYPE),
    )


class Dimension(NamedTuple):
    """A dimension as it is written: APR's name, the name it stands under, the value and the place."""

    name: str
    written_as: str
    value: int
    place: str


def dimensions(checkpoint: Checkpoint) -> dict[str, Dimension]:
    """The dimensions that `checkpoint` states, by APR's name; container metadata before the recorded config."""
    sources: list[tuple[Mapping[str, Any], str]] = [(checkpoint.typed, "metadata")]
    if checkpoint.config is not None:
        place = checkpoint.config_place or "config"
        sources.append((checkpoint.config, place))
        for part in ("text_config", "decoder"):
            nested = checkpoint.config.get(part)
            if isinstance(nested, Mapping):
                sources.append((nested, f"{place}: {part}"))
    found: dict[str, Dimension] = {}
    for values, place in sources:
        for name, spellings in DIMENSION_NAMES.items():
            for spelling in spellings:
                value = values.get(spelling)
                if name not in found and isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    found[name] = Dimension(name, spelling, value, place)
    return found


def text_stamp(checkpoint: Checkpoint, key: str) -> str | None:
    """A free text that the container or its config states (`license`, `data_source`, `data_license`), if not blank."""
    if checkpoint.format is Format.GGUF:
        from apr.formats.gguf.settings import provenance_text

        return provenance_text(checkpoint.metadata, key)
    for values in (checkpoint.metadata, checkpoint.recorded.provenance, checkpoint.config or {}):
        value = values.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def model_rows(checkpoint: Checkpoint, verdict: Verdict) -> int | None:
    """Rows of the token embedding: as the tensors show, else as stated, else None."""
    shown = dimensions_shown(verdict).get("vocab_size")
    if shown is not None:
        return shown
    stated = dimensions(checkpoint).get("vocab_size")
    return None if stated is None else stated.value


def dimensions_shown(verdict: Verdict) -> dict[str, int]:
    """Config fields solved from the tensors: by the claimed architecture if it fits, else by the best that does."""
    candidates = verdict.evidence.candidates
    if not candidates:
        return {}
    claimed = [each for each in candidates if each.architecture == verdict.claim.architecture]
    return dict((claimed or list(candidates))[0].dimensions)
