"""Fields of a config that a run may set as it likes: they change nothing that trained weights compute on a sequence
within their context. Unlike `typed_config.WITHOUT_EFFECT`, which says what need not be recorded, this is what may
differ."""

from __future__ import annotations

import re

# Read off the modelling files of transformers 5.23. Narrow on purpose: a field that only looks like one of these
# (`token_dropout` of ESM, `inv_coeff_init_option` of Nystromformer, `output_multiplier`) does change the mathematics.
_RUNNING_OPTION = re.compile(
    r"dropout|layerdrop|droppath|pdrop$|(^|_)drop_(path_|connect_|mlp_|conv_encoder_)?(rate|prob)$"
    r"|initializer|_init_values?$|(^|_)init_(std|xavier_std|device|range|scale|scheme|floor|values?)$|_initial_scale$"
    r"|_token_id$|^use_cache$|^gradient_checkpointing$|jitter|aux_loss|z_loss|label_smoothing|^train_|^router_bias_update"
    r"|^output_(attentions|hidden_states|router_logits|past)$|^pretraining_tp$|^time_step_(min|max|floor|scale)$"
    r"|^chunk_size|^use_mambapy$|^use_associative_scan$"
)
_COMPUTES_WITH_IT = frozenset({"token_dropout"})

CONTEXT_LENGTHS = frozenset(
    {"max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "context_length"}
)
"""Lengths, not mathematics, where positions are learnt (then a shape shows them) or the rotary table is a plain one."""


def is_running_option(name: str) -> bool:
    """Whether the config field `name` is set by runs and changes no result of an evaluation."""
    return name not in _COMPUTES_WITH_IT and _RUNNING_OPTION.search(name) is not None
