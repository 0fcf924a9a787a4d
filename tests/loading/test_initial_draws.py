"""What a config says of the first draw of its matrices is what the zoo's classes draw."""

import numpy as np
import pytest
import torch

from apr.loading.initial_draws import InitialDraw, initial_draws


@pytest.mark.parametrize("cutoff", [1.0, 2.0, 3.0])
def test_width_and_kurtosis_of_a_draw_with_a_cutoff(cutoff):
    tensor = torch.empty(1_000_000)
    torch.manual_seed(0)
    torch.nn.init.trunc_normal_(tensor, std=0.02, a=-cutoff * 0.02, b=cutoff * 0.02)
    values = tensor.double().numpy()
    draw = InitialDraw(0.02, cutoff)
    assert draw.width == pytest.approx(values.std(), rel=3e-3)
    assert draw.kurtosis == pytest.approx(np.mean(values**4) / np.mean(values**2) ** 2, rel=5e-3)


def test_a_draw_without_a_cutoff_is_normal():
    assert (InitialDraw(0.02).width, InitialDraw(0.02).kurtosis) == (0.02, 3.0)


@pytest.mark.parametrize(
    ("config", "draws"),
    [
        ({"initializer_range": 0.02}, [InitialDraw(0.02)]),
        ({"init_std": 0.03}, [InitialDraw(0.03)]),
        ({"initializer_range": 0.01, "init_std": 0.03}, [InitialDraw(0.01)]),
        ({"initializer_factor": 1.0}, []),
        ({"initializer_range": None}, []),
        ({"initializer_range": "small"}, []),
        ({"initializer_range": 0}, []),
        (
            {"initializer_range": 0.02, "initializer_cutoff_factor": 2.0, "num_hidden_layers": 8},
            [InitialDraw(0.02, 2.0), InitialDraw(0.005, 2.0)],
        ),
        ({"initializer_range": 0.02, "initializer_cutoff_factor": None}, [InitialDraw(0.02, 3.0)]),
    ],
)
def test_fields_that_say_how_matrices_are_drawn(config, draws):
    assert list(initial_draws(config)) == draws


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("OPTForCausalLM", {"word_embed_proj_dim": 64, "ffn_dim": 96, "init_std": 0.05}),
        ("ModernBertForMaskedLM", {"initializer_cutoff_factor": 2.0, "cls_token_id": 0, "sep_token_id": 0}),
        ("LlamaForCausalLM", {}),
    ],
)
def test_every_matrix_of_a_fresh_model_is_a_draw_of_its_config(tmp_path, class_name, options):
    from apr.formats.registry import open_checkpoint
    from apr.loading.fingerprints import FEWEST_VALUES, Freshness, freshness
    from apr.loading.roles import is_projection
    from apr.loading.values import read_values
    from tests.gates.test_unplanned_values import saved

    path = saved(tmp_path / "model", class_name, **options)
    checkpoint = open_checkpoint(path)
    draws = initial_draws(checkpoint.config or {})
    answers = {
        name: Freshness.FRESH in [freshness(value, draw) for draw in draws]
        for name, value in read_values(checkpoint.tensors.values()).items()
        if is_projection(value.entry) and value.entry.element_count >= FEWEST_VALUES
    }
    checkpoint.close()
    assert answers
    assert all(answers.values()), answers
