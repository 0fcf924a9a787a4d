"""The quality score: the founding story's numbers, and points for truth only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apr.formats.apr2.layout import Flags
from apr.formats.registry import open_checkpoint
from apr.identity.verdict import give_verdict
from apr.quality.score import CONTRADICTION_CAP, PART_MAXIMA, SHIP_THRESHOLD, QualityScore, quality_score
from tests.quality.founding import VOCABULARY, write_founding_file

STAMPED = {"architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"}
PROVENANCE = {"license": "Apache-2.0", "data_source": "bigcode/the-stack-v2", "data_license": "MIT OR Apache-2.0"}
WITH_VOCABULARY = Flags.LAYOUT_ROW_MAJOR | Flags.HAS_VOCAB


def tokenizer_metadata(size: int) -> dict[str, Any]:
    tokens = [f"t{number}" for number in range(size)]
    return {"tokenizer.vocabulary": tokens, "tokenizer.vocab_size": size}


def score_of(path: Path, *, deep: bool = False) -> QualityScore:
    with open_checkpoint(path) as checkpoint:
        return quality_score(checkpoint, give_verdict(checkpoint), deep)


def test_the_parts_sum_to_100() -> None:
    assert sum(PART_MAXIMA.values()) == 100


def test_the_founding_file_goes_from_40_to_60_when_stamped(tmp_path: Path) -> None:
    before = score_of(write_founding_file(tmp_path / "before.apr"))
    after = score_of(write_founding_file(tmp_path / "after.apr", **STAMPED))
    assert (before.score, before.breakdown["hf_identity"]) == (40, 0)
    assert (after.score, after.breakdown["hf_identity"]) == (60, 20)
    assert after.breakdown == {"physics": 20, "structural": 20, "provenance": 0, "hf_identity": 20, "tokenizer": 0}


def test_a_full_honest_file_has_100_points_and_ships(tmp_path: Path) -> None:
    metadata = STAMPED | PROVENANCE | tokenizer_metadata(VOCABULARY)
    score = score_of(write_founding_file(tmp_path / "x.apr", flags=WITH_VOCABULARY, **metadata), deep=True)
    assert (score.score, score.is_ship_ready, score.cap) == (100, True, None)


def test_85_points_do_not_ship(tmp_path: Path) -> None:
    score = score_of(write_founding_file(tmp_path / "x.apr", **STAMPED, **PROVENANCE))
    assert (score.score, score.is_ship_ready, SHIP_THRESHOLD) == (85, False, 90)


@pytest.mark.parametrize(
    "lie",
    [
        {"hf_architecture": "LlamaForCausalLM", "hf_model_type": "llama"},
        {"hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"},
        {"architecture": "llama", "hf_architecture": "LlamaForCausalLM", "hf_model_type": "llama"},
        {"architecture": "qwen2", "hf_architecture": "LlamaForCausalLM", "hf_model_type": "qwen2"},
        {"architecture": "Qwen3ForCausalLM", "hf_architecture": "Qwen3ForCausalLM", "hf_model_type": "qwen3"},
    ],
    ids=["llama beside llama", "only the slug lies", "all lie", "one of three lies", "qwen3"],
)
def test_a_contradicted_claim_pays_nothing_is_capped_and_never_ships(tmp_path: Path, lie: dict[str, str]) -> None:
    metadata = PROVENANCE | tokenizer_metadata(VOCABULARY) | lie
    score = score_of(write_founding_file(tmp_path / "x.apr", flags=WITH_VOCABULARY, **metadata))
    assert score.breakdown["hf_identity"] == 0
    assert score.cap == CONTRADICTION_CAP
    assert score.score <= CONTRADICTION_CAP
    assert not score.is_ship_ready


@pytest.mark.parametrize("architecture", [None, "unknown", "Wombat", ""])
def test_no_known_architecture_costs_its_structural_points(tmp_path: Path, architecture: str | None) -> None:
    score = score_of(write_founding_file(tmp_path / "x.apr", **{**STAMPED, "architecture": architecture}))
    assert score.breakdown["structural"] == 15


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "num_heads"])
def test_a_dimension_that_is_not_stated_costs_five_points(tmp_path: Path, name: str) -> None:
    score = score_of(write_founding_file(tmp_path / "x.apr", **{**STAMPED, name: None}))
    assert score.breakdown["structural"] == 15


@pytest.mark.parametrize(
    "license_text", ["unknown", "TODO", "tbd", "none", "N/A", "proprietary", " ", "LicenseRef-unknown"]
)
def test_placeholders_pay_nothing(tmp_path: Path, license_text: str) -> None:
    metadata = dict.fromkeys(PROVENANCE, license_text)
    assert score_of(write_founding_file(tmp_path / "x.apr", **STAMPED, **metadata)).breakdown["provenance"] == 0


@pytest.mark.parametrize(
    ("name", "value", "points"),
    [
        ("license", "mit", 9),
        ("license", "llama3", 9),
        ("license", "LicenseRef-acme-1", 9),
        ("license", "Apache 2", 0),
        ("data_license", "CC-BY-4.0", 8),
        ("data_source", "crawl of 2026-05", 8),
    ],
)
def test_provenance_is_paid_by_fact(tmp_path: Path, name: str, value: str, points: int) -> None:
    score = score_of(write_founding_file(tmp_path / "x.apr", **STAMPED, **{name: value}))
    assert score.breakdown["provenance"] == points


@pytest.mark.parametrize(
    ("size", "flags", "points", "reason"),
    [
        (VOCABULARY, WITH_VOCABULARY, 15, "the tokenizer parses and fits the embedding"),
        (VOCABULARY - 7, WITH_VOCABULARY, 15, "the tokenizer parses and fits the embedding"),
        (VOCABULARY + 1, WITH_VOCABULARY, 0, "the tokenizer needs 97 embedding rows, the model has 96"),
        (0, WITH_VOCABULARY, 0, "a vocabulary size is recorded, but no tokens"),
        (
            VOCABULARY,
            Flags.LAYOUT_ROW_MAJOR,
            0,
            "the HAS_VOCAB flag is not set, so other readers do not see the tokenizer (apr stamp --tokenizer DIR)",
        ),
    ],
    ids=["fits", "smaller", "larger", "size only", "no flag"],
)
def test_tokenizer_points_need_a_usable_tokenizer(
    tmp_path: Path, size: int, flags: Flags, points: int, reason: str
) -> None:
    metadata = tokenizer_metadata(size) if size else {"tokenizer.vocab_size": 96}
    score = score_of(write_founding_file(tmp_path / "x.apr", flags=flags, **STAMPED, **metadata))
    item = next(item for item in score.items if item.part == "tokenizer")
    assert (item.points, item.reason) == (points, reason)


def test_the_flag_alone_pays_nothing(tmp_path: Path) -> None:
    score = score_of(write_founding_file(tmp_path / "x.apr", flags=WITH_VOCABULARY, **STAMPED))
    assert score.breakdown["tokenizer"] == 0


def test_deep_physics_sees_a_flipped_data_byte_that_headers_do_not(tmp_path: Path) -> None:
    path = write_founding_file(tmp_path / "x.apr", **STAMPED)
    data = bytearray(path.read_bytes())
    data[-300] ^= 0x10
    path.write_bytes(data)
    assert score_of(path).breakdown["physics"] == 20
    assert score_of(path, deep=True).breakdown["physics"] == 0


def test_json_keeps_the_founding_projects_keys(tmp_path: Path) -> None:
    document = score_of(write_founding_file(tmp_path / "x.apr", **STAMPED)).to_json()
    assert list(document)[:4] == ["score", "ship_ready", "threshold", "breakdown"]
    assert (document["score"], document["ship_ready"], document["threshold"]) == (60, False, 90)
    assert list(document["breakdown"]) == ["physics", "structural", "provenance", "hf_identity", "tokenizer"]
    assert all(item["reason"] for item in document["items"])
    json.dumps(document)
