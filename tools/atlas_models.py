"""Building small models without memory and reading what they would save: the observations the atlas is fitted to."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping
from typing import Any
from unittest import mock

from atlas_classes import DEPENDENT, FILLED, MORE_FIELDS, UNEXPLORED

IRRELEVANT_FIELD = re.compile(
    r"drop|^use_cache$|initializer|token_id$|_token_index$|^is_encoder_decoder$|^scale_embedding$|^id2label$|"
    r"^label2id$|^rope_parameters$|^rope_scaling$|^rope_theta$|^output_(attentions|hidden_states|router_logits)$|^return_|^use_return_dict$|^summary_(type|activation)$|"
    r"^forced_|^begin_suppress|^suppress_tokens$|^median_filter|^mask_|^apply_spec_augment$|^pretraining_tp$|"
    r"^quantization_config$|^auto_map$|^time_step_init_scheme$|_dtype$|(chunkwise|sequence|step)_kernel$|^init_std$|^init_device$|^problem_type$"
)
ACTIVATION_FIELD = re.compile(r"(^|_)(act|activation|afn|activation_function|hidden_act)(_|$)|act_fn")
LAYERS_FIELD = re.compile(
    r"^(text_config\.)?((num|n|encoder|decoder)_)?(hidden_|decoder_|encoder_|text_)?layers?$|num_hidden_layers$"
)
HEADS_FIELD = re.compile(r"heads?$|n_head$")
KEY_VALUE_FIELD = re.compile(
    r"(num_key_value_heads|num_kv_heads|n_head_kv|kv_heads|num_key_value_groups|multi_query_group_num)$"
)
HIDDEN_FIELD = re.compile(
    r"^(text_config\.)?(hidden_size|n_embd|d_model|hidden_dim|dim|embedding_size|embed_dim|model_dim)$"
)
VOCABULARY_FIELD = re.compile(r"vocab_size$")
DEPTH_FIELD = re.compile(r"layer_types|interval|period|pattern|freq|every")
"""Fields that put a kind of layer so deep that a shallow model has none of it."""
PLACE_FIELD = re.compile(r"layer|step|interval|freq|period|offset|replace|every|dense|sparse|start|first|stride|skip")
"""Names of the fields that say on which layers something stands."""
EVERY_FIELD, FROM_FIELD = re.compile(r"step|interval|freq|period|every"), re.compile(r"start|first|offset|dense")
"""Of these, one that at 1 means each layer, and one that at 0 means from the first layer on."""

UNLISTED_FIELDS: dict[str, type] = {
    "head_dim": int,
    "num_labels": int,
    "attention_bias": bool,
    "mlp_bias": bool,
    "tie_word_embeddings": bool,
}
"""Fields that model code reads with `getattr(config, name, ...)` although the config class does not list them."""

LABELLED_CLASS = re.compile(r"Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction|PreTraining")
"""Classes whose head may have a row for each label; every config class has `num_labels`, none lists it."""


@dataclasses.dataclass(frozen=True)
class Observed:
    """On-disk tensors of one built model: shapes by name, ties by name, and the resolved config attributes."""

    shapes: Mapping[str, tuple[int, ...]]
    ties: Mapping[str, str]
    attributes: Mapping[str, Any]


class ZooClass:
    """One class of the model zoo with the config class that builds it, and the values pinned to make it build."""

    def __init__(self, model_class: type, config_class: type, pinned: Mapping[str, Any] | None = None) -> None:
        from transformers.configuration_utils import PreTrainedConfig

        self.model_class = model_class
        self.config_class = config_class
        self.pinned = dict(pinned or {})
        model_type = str(getattr(config_class, "model_type", ""))
        self.dependent = DEPENDENT.get(model_type, {})
        self.filled = FILLED.get(model_type, {})
        self.unexplored = UNEXPLORED.get(model_type, frozenset())
        common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
        self.fields = {field.name: field for field in dataclasses.fields(config_class) if field.name not in common}
        self.unlisted = {name for name in UNLISTED_FIELDS if name not in self.fields and name != "num_labels"} - set(
            getattr(config_class, "attribute_map", None) or {}
        )
        if LABELLED_CLASS.search(model_class.__name__):
            self.unlisted.add("num_labels")
        self.more = MORE_FIELDS.get(model_type, {})
        self.fields.update(dict.fromkeys([*sorted(self.unlisted), *self.more]))

    def default_of(self, name: str) -> Any:
        if name in self.unlisted or name in self.more:
            return self.more.get(name)
        field = self.fields[name]
        if field.default is not dataclasses.MISSING:
            return field.default
        return field.default_factory() if field.default_factory is not dataclasses.MISSING else None

    def allows_integer(self, name: str) -> bool:
        if name in self.unlisted:
            return UNLISTED_FIELDS[name] is int
        default = self.default_of(name)
        if isinstance(default, int) and not isinstance(default, bool):
            return True
        if name in self.more:
            return False
        kind = re.sub(r"(list|dict|tuple|Sequence)\[[^\]]*\]", "", str(self.fields[name].type))
        return bool(re.search(r"\bint\b", kind)) and (default is None or default == "auto")

    def allows_list_of_integers(self, name: str) -> bool:
        return name not in self.unlisted and name not in self.more and "list[int]" in str(self.fields[name].type)

    def allows_boolean(self, name: str) -> bool:
        if name in self.unlisted:
            return UNLISTED_FIELDS[name] is bool
        default = self.default_of(name)
        if isinstance(default, bool) or name in self.more:
            return isinstance(default, bool)
        return default is None and "bool" in str(self.fields[name].type)

    def configure(self, values: Mapping[str, Any]) -> Any:
        return self.config_class(**{**self.pinned, **self.completed(values)})

    def completed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with the fields that the class wants to follow from the others, and those it cannot do without."""
        completed = dict(values)
        needed = {name: rule for name, rule in self.filled.items() if completed.get(name) is None}
        for name, rule in {**self.dependent, **needed}.items():
            try:
                completed[name] = rule({**{each: self.default_of(each) for each in self.fields}, **completed})
            except (TypeError, KeyError):
                continue
        return completed

    def observe(self, values: Mapping[str, Any]) -> Observed | None:
        """What the model of these config values saves; None when the zoo refuses the values."""
        try:
            config = self.configure(values)
            return Observed(*saved_tensors(self.model_class, config), self.attributes(config))
        except Exception:  # noqa: BLE001  (the zoo refuses values in many ways; all mean: not this config)
            return None

    def attributes(self, config: Any) -> dict[str, Any]:
        return {name: getattr(config, name, None) for name in self.fields}


def saved_tensors(model_class: type, config: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and ties of every tensor as `save_pretrained` names it, tied ones included, without allocating any."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.initialization import no_init_weights

    from apr.identity.renaming import current_name

    # A model that cannot generate makes no generation config, which would cost a tenth of the time. (Not a subclass:
    # the zoo finds the conversions between memory and disk by the class itself.)
    cannot_generate = mock.patch.object(model_class, "can_generate", classmethod(lambda _: False))
    with cannot_generate, no_init_weights(), torch.device("meta"):
        model = model_class(config)
        model.tie_weights()
    state = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    ties = _ties(model, state)
    kept = {name: tensor for name, tensor in state.items() if name not in ties}
    shapes = {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, dict(kept)).items()}
    on_disk: dict[str, str] = {}
    for name, target in ties.items():
        alias = revert_weight_conversion(model, {name: state[name]})
        original = revert_weight_conversion(model, {target: state[target]})
        for alias_name, original_name in zip(alias, original, strict=True):
            on_disk[alias_name] = original_name
            shapes[alias_name] = tuple(alias[alias_name].shape)
    # Where the zoo saves a norm by its old name (ESM), the file is read by today's.
    return {current_name(name, shapes): shape for name, shape in shapes.items()}, on_disk


def _ties(model: Any, state: Mapping[str, Any]) -> dict[str, str]:
    """Names that `save_pretrained` leaves out because they share another tensor, with that tensor's name."""
    groups: dict[int, list[str]] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            if name in state:
                groups.setdefault(id(tensor), []).append(name)
    shared = [names for names in groups.values() if len(names) > 1]
    if not shared:
        return {}
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    kept = set(remove_tied_weights_from_state_dict(dict(state), model))
    ties = {}
    for names in shared:
        stays = [name for name in names if name in kept]
        ties.update({name: stays[0] for name in names if name not in kept and stays})
    return ties


class Sampler:
    """Config values with pairwise different, mutually underivable dimensions, valid for most classes.

    is_coupled: all widths are equal, all depths, all counts of heads, as many a class wants it; else only the first of
    each kind is as the others of its kind would be.
    """

    def __init__(self, zoo: ZooClass, integers: list[str], seed: int) -> None:
        self.zoo = zoo
        self.integers = integers
        self.random = random.Random(seed)
        self.layer_choices = (2, 3, 4)
        self.is_coupled = True

    def sample(self) -> dict[str, Any]:
        draw = self.random
        heads = draw.choice((4, 6, 12))
        key_value = draw.choice([each for each in (1, 2, 3, 4, 6) if heads % each == 0 and each < heads])
        ratio = draw.choice((3, 4, 5, 7, 8))
        hidden = 24 * ratio
        layers = draw.choice(self.layer_choices)
        values: dict[str, Any] = {}
        used: set[int] = {heads, key_value, hidden, layers}
        kinds: set[str] = set()

        def first(kind: str) -> bool:
            is_first = self.is_coupled or kind not in kinds
            kinds.add(kind)
            return is_first

        for name in self.integers:
            default = self.zoo.default_of(name)
            if LAYERS_FIELD.search(name):
                values[name] = layers if first("layers") else draw.choice(self.layer_choices)
            elif KEY_VALUE_FIELD.search(name):
                values[name] = key_value
            elif name in ("linear_num_key_heads",):
                values[name] = draw.choice((2, 4))
            elif name in ("linear_num_value_heads",):
                values[name] = draw.choice((4, 8, 12))
            elif HEADS_FIELD.search(name):
                values[name] = heads if first("heads") else draw.choice((4, 6, 12))
            elif HIDDEN_FIELD.search(name):
                values[name] = hidden if first("hidden") else 24 * draw.choice((3, 4, 5, 7, 8))
            elif VOCABULARY_FIELD.search(name) and default != 0:
                values[name] = draw.choice((101, 103, 107, 109, 113, 127, 131, 137)) * 2
            else:
                values[name] = self._other(name, default, used)
                used.add(values[name])
        return values

    def _other(self, name: str, default: Any, used: set[int]) -> int:
        draw = self.random
        if "intermediate" in name or "ffn" in name or name in ("n_inner", "d_ff", "feed_forward_size"):
            choices = [4 * each for each in (11, 13, 17, 19, 23, 29, 31)] + [0, 0] * (default == 0)
        elif "head_dim" in name or name.endswith("_dim") or "rank" in name:
            choices = [8, 10, 14, 16, 18, 20, 22, 26, 28, 32]
        elif "position" in name or "ctx" in name or "seq_len" in name:
            choices = [41, 43, 47, 53, 59, 61, 67]
        elif isinstance(default, int) and default >= 64:
            choices = [34, 38, 46, 58, 62, 74, 82, 86]
        elif PLACE_FIELD.search(name):
            choices = [1, 2, 3] if default != 0 else [0, 1, 2]
        elif default in (0, 1):
            choices = [default, 1, 2, 3]
        elif isinstance(default, int) and default <= 4:
            choices = [2, 3, 4, 5]
        else:
            choices = [2, 3, 4, 5, 6, 7, 9, 10]
        fresh = [each for each in choices if each not in used]
        return draw.choice(fresh or choices)
