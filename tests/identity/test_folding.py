"""Folding loses no name, counts each once, and reads like a person would write it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apr.identity.folding import fold_names


def test_the_founding_biases_fold_to_one_line() -> None:
    names = [f"model.layers.{layer}.self_attn.{part}_proj.bias" for layer in range(24) for part in "qkv"]
    assert fold_names(names) == (("model.layers.{0–23}.self_attn.{q,k,v}_proj.bias", 72),)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["lm_head.weight"], (("lm_head.weight", 1),)),
        ([], ()),
        ([f"h.{n}.w" for n in (0, 1, 2, 3, 5)], (("h.{0–3,5}.w", 5),)),
        (
            [f"l.{n}.experts.{e}.{p}_proj.weight" for n in range(2) for e in range(8) for p in ("gate", "up")],
            (("l.{0–1}.experts.{0–7}.{gate,up}_proj.weight", 32),),
        ),
        (["h.0.ln.weight", "h.0.ln.bias"], (("h.0.ln.{weight,bias}", 2),)),
        (["model.norm.weight", "lm_head.weight"], (("lm_head.weight", 1), ("model.norm.weight", 1))),
    ],
)
def test_folds(names: list[str], folded: tuple[tuple[str, int], ...]) -> None:
    assert fold_names(names) == folded


def test_a_missing_layer_of_one_sibling_is_not_hidden() -> None:
    names = [f"h.{n}.{part}_proj.w" for n in range(4) for part in "qk" if (n, part) != (2, "k")]
    assert fold_names(names) == (("h.{0–1,3}.k_proj.w", 3), ("h.{0–3}.q_proj.w", 4))


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "q_proj", "k_proj", "0", "1", "2", "7", "weight", "bias"]), min_size=1, max_size=5
        ),
        max_size=30,
    )
)
def test_every_name_is_counted_once(parts: list[list[str]]) -> None:
    names = {".".join(each) for each in parts}
    assert sum(count for _, count in fold_names(sorted(names))) == len(names)


def test_numbers_that_are_not_plain_are_left_alone() -> None:
    assert fold_names(["a.00.w", "a.01.w"]) == (("a.00.w", 1), ("a.01.w", 1))
    assert re.search("…", fold_names([f"a.{n}.w" for n in range(0, 100, 2)])[0][0])


def test_names_that_no_model_has_are_left_as_they_are() -> None:
    names = ["a." * 300 + "w", "1." * 300 + "w", "x" * 600, "\0.x", "\0"]
    assert fold_names(names) == tuple(sorted((name, 1) for name in names))


def test_a_list_too_long_to_merge_still_has_its_numbers_folded() -> None:
    names = [f"l.{layer}.w{n}_{n}" for layer in range(2) for n in range(20_000)]
    folded = fold_names(names)
    assert sum(count for _, count in folded) == 40_000
    assert ("l.{0–1}.w7_7", 2) in folded
