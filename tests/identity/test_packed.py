"""The data file: an index and one member for each model type, heads told by what sets them apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from apr.identity.atlas import Atlas, expected_tensors
from apr.identity.packed import DataFile, whole_entry

sys.path.append(str(Path(__file__).parents[2] / "tools"))

ENTRY: dict[str, Any] = {
    "class": "CForCausalLM",
    "model_type": "c",
    "kind": "decoder",
    "exact": True,
    "note": None,
    "base_prefix": "model",
    "rope": None,
    "defaults": {"n": 2, "tie_word_embeddings": True},
    "aliases": {},
    "derived": [],
    "fixed": [],
    "texts": {},
    "tensors": [
        ["lm_head.weight", ["n"], {"tied": "model.embed.weight"}],
        ["model.embed.weight", ["n"]],
        ["model.layers.{layer}.w", ["3*n"], {"loops": [["layer", "n"]]}],
    ],
}
BASE = {
    **ENTRY,
    "class": "CModel",
    "kind": "base",
    "base_prefix": "",
    "tensors": [["embed.weight", ["n"]], ["layers.{layer}.w", ["3*n"], {"loops": [["layer", "n"]]}]],
}
REWARD = {
    **ENTRY,
    "class": "CForSequenceClassification",
    "kind": "classification",
    "labels": 3,
    "tensors": [*ENTRY["tensors"][1:], ["score.weight", ["num_labels", "n"]]],
}
OTHER = {**ENTRY, "class": "DForCausalLM", "model_type": "d", "tensors": [["d", ["n"]]]}


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    from atlas_packing import pack

    return Atlas(DataFile(pack([ENTRY, BASE, REWARD, OTHER], "x 1")))


def test_every_entry_comes_back_whole(atlas: Atlas) -> None:
    from atlas_packing import pack

    data = DataFile(pack([ENTRY, BASE, REWARD, OTHER], "x 1"))
    for at, wanted in enumerate((ENTRY, BASE, REWARD, OTHER)):
        found = data.document(at)
        assert {key: found[key] for key in wanted} == wanted


def test_a_head_costs_only_what_sets_it_apart() -> None:
    from atlas_packing import _told_by

    told = _told_by(ENTRY, 0, REWARD)
    assert (told["lacks"], told["tensors"]) == ([0], [["score.weight", ["num_labels", "n"]]])
    assert whole_entry(ENTRY, told)["tensors"] == REWARD["tensors"]
    told = _told_by(ENTRY, 0, BASE)
    assert (told["bare"], told["lacks"], told["tensors"]) == ("model.", [0], [])


def test_an_atlas_is_what_its_data_says(atlas: Atlas) -> None:
    entry = atlas.find_class("CModel")
    assert entry is not None
    wanted = expected_tensors(entry, {"n": 3})
    assert wanted is not None
    shapes = {name: each.shape for name, each in wanted.items()}
    assert shapes == {"embed.weight": (3,), "layers.0.w": (9,), "layers.1.w": (9,), "layers.2.w": (9,)}
    assert atlas.find_class("D") is None
    assert [each.architecture.class_name for each in atlas.find_model_type("d")] == ["DForCausalLM"]


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, 3),
        ({"num_labels": 5}, 5),
        ({"id2label": {"0": "reward"}}, 1),
        ({"id2label": {"0": "a"}, "num_labels": 9}, 1),
    ],
)
def test_labels_are_counted_as_the_config_class_counts_them(atlas: Atlas, config: dict[str, Any], labels: int) -> None:
    entry = atlas.find_class("CForSequenceClassification")
    assert entry is not None
    wanted = expected_tensors(entry, config)
    assert wanted is not None
    assert wanted["score.weight"].shape == (labels, 2)
