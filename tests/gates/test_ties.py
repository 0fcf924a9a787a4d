"""A tie whose two copies differ is refused, with the command that unties a head only where following it works."""

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apr.cli.main import run
from apr.gates.road import RoadOptions, deepen, examine
from tests.gates.test_unplanned_values import saved
from tests.tiny_models import VOCABULARY, save_tiny

SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "decoder_start_token_id": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def remedy_of(path: Path, name: str, *shape: int) -> str:
    """What is said when the file stores `name` with values of its own."""
    state = load_file(path / "model.safetensors")
    state[name] = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.05
    save_file(state, path / "model.safetensors", {"format": "pt"})
    examination = deepen(examine(path, RoadOptions(run_kind=None)))
    examination.close()
    (refusal,) = examination.refusals
    assert f"ties {name} to" in refusal.message
    return str(refusal.remedy)


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_a_head_trained_apart_is_untied_by_the_command_that_is_printed(tmp_path):
    path = save_tiny(tmp_path / "model", "gpt2")
    remedy = remedy_of(path, "lm_head.weight", VOCABULARY, 64)
    command = shlex.split(remedy[remedy.index("apr stamp") :])[1:]
    out = tmp_path / "out"
    assert run([*command[:-1], str(out)]) == 0
    assert run(["preflight", "--deep", str(out)]) == 0


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize(
    ("class_name", "options", "name", "shape"),
    [
        ("BartForConditionalGeneration", SEQ2SEQ, "model.decoder.embed_tokens.weight", (VOCABULARY, 32)),
        ("BartForConditionalGeneration", SEQ2SEQ, "lm_head.weight", (VOCABULARY, 32)),
        ("BertForMaskedLM", {}, "cls.predictions.decoder.bias", (VOCABULARY,)),
    ],
)
def test_another_tie_asks_for_an_intact_copy(tmp_path, class_name, options, name, shape):
    remedy = remedy_of(saved(tmp_path / "model", class_name, **options), name, *shape)
    assert "apr stamp" not in remedy
    assert f"get a copy in which {name} equals" in remedy
