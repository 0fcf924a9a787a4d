"""Value statistics prove what they say, and say nothing of healthy models, fresh or trained, of either norm."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from apr.formats.base import TensorEntry
from apr.formats.dtypes import DType
from apr.loading.fingerprints import Freshness, fresh_among_trained, freshness, lost_endings
from apr.loading.initial_draws import InitialDraw
from apr.loading.norm_gains import NORMS_THAT_ADD_ONE, GainCentre, gain_centre
from apr.loading.values import TensorFacts, read_tensor_facts
from apr.storage.reading import SourceFile

DRAW = InitialDraw(0.02)
GENERATOR = np.random.default_rng(0)
FRESH = GENERATOR.standard_normal((128, 96)) * 0.02
ROWS = np.exp(0.6 * GENERATOR.standard_normal((128, 1)))
HEALTHY = {
    "trained": FRESH * ROWS,
    "heavy tails": GENERATOR.standard_t(4, (128, 96)) * 0.02,
    "wider": FRESH * 1.2,
    "uniform": GENERATOR.uniform(-0.0346, 0.0346, (128, 96)),
    "off centre": FRESH + 0.005,
}


def facts_of(directory: Path, name: str, array: np.ndarray) -> TensorFacts:
    path = directory / f"{name}.bytes"
    path.write_bytes(array.astype("<f4").tobytes())
    return read_tensor_facts(TensorEntry(name, DType.F32, array.shape, SourceFile(path), 0, path.stat().st_size))


def test_a_fresh_matrix_is_known_and_no_other_is_taken_for_one(tmp_path):
    assert freshness(facts_of(tmp_path, "w", FRESH), DRAW) is Freshness.FRESH
    for name, array in HEALTHY.items():
        assert freshness(facts_of(tmp_path, name, array), DRAW) is not Freshness.FRESH, name


def test_only_tails_and_rows_prove_training(tmp_path):
    proven = {
        name for name, array in HEALTHY.items() if freshness(facts_of(tmp_path, name, array), DRAW) is Freshness.TRAINED
    }
    assert proven == {"trained", "heavy tails"}


LAYERS = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]
F, T, U = Freshness.FRESH, Freshness.TRAINED, Freshness.UNSURE


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([F, T, T, T], [LAYERS[0]]),
        ([F, F, F, F], []),
        ([F, F, T, T], []),
        ([F, U, T, T], []),
        ([F, U, U, U], []),
        ([T, T, T, T], []),
    ],
)
def test_one_fresh_layer_among_trained_ones_is_named(answers, found):
    assert list(fresh_among_trained(dict(zip(LAYERS, answers, strict=True)))) == found


@pytest.mark.parametrize(
    ("answers", "is_named"), [([T] * 4, True), ([F] * 4, False), ([U] * 4, False), ([T, T, F, F], False)]
)
def test_a_fresh_head_is_named_only_over_trained_layers(answers, is_named):
    judged = {**dict(zip(LAYERS, answers, strict=True)), "lm_head.weight": F}
    assert ("lm_head.weight" in fresh_among_trained(judged)) is is_named


GAINS = {
    "llama": (GENERATOR.normal(1, 0.1, (5, 64)), GainCentre.ONE),
    "llama, small": (np.abs(GENERATOR.normal(0.03, 0.01, (5, 64))), None),
    "llama, wide": (np.abs(GENERATOR.normal(2, 1, (5, 64))), None),
    "gemma": (GENERATOR.normal(0, 0.1, (5, 64)), GainCentre.ZERO),
    "gemma, never trained": (np.zeros((5, 64)), GainCentre.ZERO),
    "gemma, large": (GENERATOR.normal(6, 5, (5, 64)), None),
}


@pytest.mark.parametrize("kind", GAINS)
def test_the_convention_of_norms_is_told_only_where_it_shows(tmp_path, kind):
    rows, expected = GAINS[kind]
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(5)]
    values = {name: facts_of(tmp_path, name, row) for name, row in zip(names, rows, strict=True)}
    assert gain_centre(values) is expected


def test_zeros_at_the_end_of_a_matrix_are_lost_and_those_of_an_embedding_are_padding(tmp_path):
    half = FRESH.copy()
    half[64:] = 0
    spread = FRESH * (GENERATOR.random(FRESH.shape) < 0.5)
    names = {"mlp.up_proj.weight": half, "mlp.down_proj.weight": spread, "model.embed_tokens.weight": half}
    facts = [facts_of(tmp_path, name, array) for name, array in names.items()]
    assert [each.entry.name for each in lost_endings(facts)] == ["mlp.up_proj.weight"]


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text", "vaultgemma", "qwen3_next", "llama", "qwen2"])
def test_the_table_of_conventions_is_that_of_the_zoo(model_type):
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    module = importlib.import_module(getattr(transformers, name).__module__)
    norm = next(
        each
        for key, each in vars(module).items()
        if key.endswith("RMSNorm") and not key.endswith("GatedRMSNorm") and isinstance(each, type)
    )
    gain = norm(8)
    adds_one = model_type in NORMS_THAT_ADD_ONE
    assert torch.equal(gain.weight.detach(), torch.zeros(8) if adds_one else torch.ones(8))
    values = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0]])
    normed = gain(values)
    assert torch.allclose(normed.pow(2).mean(), torch.tensor(1.0), atol=1e-3)
