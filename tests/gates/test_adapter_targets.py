"""Which modules an adapter's config adapts, and with which rank: told as PEFT itself tells it, or not at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from apr.gates.adapters.targets import promised_modules, rank_finder

MODULES = (
    "model.embed_tokens",
    *(
        f"model.layers.{layer}.{part}"
        for layer in (0, 1, 10)
        for part in ("self_attn.q_proj", "self_attn.my_q_proj", "self_attn.v_proj", "mlp.gate", "mlp.up_proj")
    ),
    "lm_head",
)

CONFIGS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["self_attn.q_proj", "model.layers.0.mlp.gate", "lm_head"]},
    {"target_modules": ["proj"]},
    {"target_modules": []},
    {"target_modules": r".*\.layers\.\d\.(self_attn|mlp)\.\w+_proj"},
    {"target_modules": "model"},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.1\..*"},
    {"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj"], "layers_to_transform": 10, "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["blocks", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["blocks"]},
    {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj", "gate", "up_proj"], "modules_to_save": ["mlp"]},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_modules_are_chosen_as_peft_chooses_them(config: dict[str, Any]) -> None:
    utilities = pytest.importorskip("peft.tuners.tuners_utils", reason="peft is not installed")
    asked = SimpleNamespace(**{"exclude_modules": None, "modules_to_save": None, "target_parameters": None, **config})
    theirs = {
        module
        for module in MODULES
        if (found := utilities.check_target_module_exists(asked, module))
        and not isinstance(found, utilities._ExcludedModule)
    }
    assert promised_modules(config, MODULES) == theirs


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"target_modules": [1, 2]},
        {"target_modules": "(unclosed"},
        {"target_modules": ["gate"], "target_parameters": ["mlp.experts.gate_up_proj"]},
        {"target_modules": ["q_proj"], "layer_replication": [[0, 1], [0, 1]]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["lay.*"]},
        {"target_modules": ["q_proj"], "layers_to_transform": ["0"]},
    ],
    ids=str,
)
def test_what_the_files_cannot_tell_is_not_guessed(config: dict[str, Any]) -> None:
    assert promised_modules(config, MODULES) is None


@pytest.mark.parametrize(
    ("pattern", "module", "rank"),
    [
        ({}, "model.layers.0.self_attn.q_proj", 4),
        ({"q_proj": 2}, "model.layers.0.self_attn.q_proj", 2),
        ({"q_proj": 2}, "model.layers.0.self_attn.my_q_proj", 4),
        ({"^model.layers.1.self_attn.q_proj": 2}, "model.layers.1.self_attn.q_proj", 2),
        ({"^layers.1.self_attn.q_proj": 2}, "model.layers.1.self_attn.q_proj", 4),
        ({r".*\.q_proj": 2}, "model.layers.1.self_attn.q_proj", None),
    ],
)
def test_ranks_are_those_of_the_pattern(pattern: dict[str, int], module: str, rank: int | None) -> None:
    assert rank_finder({"r": 4, "rank_pattern": pattern})(module) == rank
