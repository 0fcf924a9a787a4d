"""The accident is made as it happened: false labels, no tokenizer, the same tensors; the biases are what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.convert.importing import import_checkpoint
from apr.demo.biases import BIAS_SPREADS, spread_biases
from apr.demo.mislabel import FOUNDING_KEYS, write_mislabelled
from apr.demo.stamped_load import write_as_stamped
from apr.demo.story import stored_digest
from apr.formats.registry import open_checkpoint
from apr.gates.road import examine
from apr.identity.types import VerdictKind
from tests.tiny_models import save_tiny, tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mislabel")
    places = {name: folder / name for name in ("qwen2", "honest.apr", "mislabelled.apr", "as-stamped")}
    import_checkpoint(save_tiny(places["qwen2"], "qwen2"), places["honest.apr"])
    write_mislabelled(places["honest.apr"], places["mislabelled.apr"])
    write_as_stamped(places["mislabelled.apr"], places["as-stamped"])
    return places


def test_every_label_a_loader_looks_at_is_false(files: dict[str, Path]) -> None:
    with open_checkpoint(files["mislabelled.apr"]) as checkpoint:
        assert sorted(stamp.value for stamp in checkpoint.stamps) == ["LlamaForCausalLM", "LlamaForCausalLM", "llama"]
        assert {key: checkpoint.metadata[key] for key in FOUNDING_KEYS} == FOUNDING_KEYS
        assert checkpoint.metadata.get("license") is None
        assert not checkpoint.tokenizer_files()
        assert checkpoint.typed["num_hidden_layers"] == 2


def test_the_tensors_and_the_honest_file_are_untouched(files: dict[str, Path]) -> None:
    digests = {stored_digest(files[name]) for name in ("qwen2", "honest.apr", "mislabelled.apr", "as-stamped")}
    assert len(digests) == 1
    with open_checkpoint(files["honest.apr"]) as checkpoint:
        assert "Qwen2ForCausalLM" in {stamp.value for stamp in checkpoint.stamps}


@pytest.mark.parametrize("name", ["mislabelled.apr", "as-stamped"])
def test_the_copy_is_refused_in_both_containers(files: dict[str, Path], name: str) -> None:
    examination = examine(files[name])
    examination.close()
    assert examination.facts.verdict is not None
    assert examination.facts.verdict.kind is VerdictKind.CONTRADICTION
    assert {"INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001"} <= {each.id for each in examination.refusals}


def test_biases_are_spread_as_announced_and_the_same_for_the_same_seed() -> None:
    import torch

    models = [tiny_model("qwen2", hidden_size=256) for _ in range(3)]
    assert [spread_biases(model, seed) for model, seed in zip(models, (1, 1, 2), strict=True)] == [6, 6, 6]
    first, same, other = (dict(model.named_parameters()) for model in models)
    for ending, spread in BIAS_SPREADS.items():
        drawn = torch.cat([value.detach() for name, value in first.items() if name.endswith(ending)])
        assert float(drawn.std()) == pytest.approx(spread, rel=0.15)
    name = "model.layers.0.self_attn.k_proj.bias"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])
    weight = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(first[weight], other[weight])
