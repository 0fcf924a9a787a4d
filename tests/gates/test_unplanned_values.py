"""A class that the atlas does not hold exactly has no load plan, and its values are judged all the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apr.gates.finding import Status
from apr.gates.road import RoadOptions, deepen, examine
from tests.tiny_models import _COMMON

VALUES = "INV-INIT-VALUES-001"
MATRIX = "model.layers.1.mlp_block.down_proj.weight"


def saved(directory: Path, class_name: str, **options) -> Path:
    import transformers

    from apr.loading.quiet import quiet_zoo

    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    with quiet_zoo():
        model_class(
            model_class.config_class(**(options if "d_model" in options else {**_COMMON, **options}))
        ).save_pretrained(directory)
    return directory


@pytest.fixture
def recurrent(tmp_path) -> Path:
    return saved(
        tmp_path / "model",
        "RecurrentGemmaForCausalLM",
        num_hidden_layers=3,
        num_key_value_heads=1,
        lru_width=64,
        attention_window_size=16,
        head_dim=16,
    )


def judged(path: Path):
    examination = deepen(examine(path, RoadOptions(run_kind=None)))
    examination.close()
    assert examination.facts.plan is None
    return [finding for finding in examination.findings if finding.id == VALUES]


def edited(path: Path, change) -> Path:
    state = load_file(path / "model.safetensors")
    for name in state:
        change(name, state[name])
    save_file(state, path / "model.safetensors", {"format": "pt"})
    return path


def of_one(change):
    return lambda name, tensor: change(tensor) if name == MATRIX else None


FAULTS = {
    "NaN": (lambda name, tensor: tensor.fill_(float("nan")), "NaN or infinite"),
    "zero": (lambda name, tensor: tensor.zero_(), "zero everywhere"),
    "one matrix zero": (of_one(lambda tensor: tensor.zero_()), "zero everywhere"),
    "one constant": (of_one(lambda tensor: tensor.fill_(0.5)), "one value everywhere"),
    "no end": (of_one(lambda tensor: tensor[20:].zero_()), "nothing but zeros"),
    "a hole": (of_one(lambda tensor: tensor.view(-1)[: tensor.numel() // 2 + 20].zero_()), "one long stretch"),
    "no table": (lambda name, tensor: tensor.zero_() if "embed_tokens" in name else None, "zero everywhere"),
}


@pytest.mark.planted_defect(VALUES)
@pytest.mark.parametrize("kind", FAULTS)
def test_values_of_a_class_without_a_plan_are_judged(recurrent, kind):
    change, says = FAULTS[kind]
    refused = [finding.message for finding in judged(edited(recurrent, change)) if finding.status is Status.REFUSE]
    assert any(says in message for message in refused), refused


def test_a_healthy_file_passes_and_the_reason_for_what_is_left_is_the_true_one(recurrent):
    findings = judged(recurrent)
    assert {finding.status for finding in findings} == {Status.PASS, Status.UNCHECKED}
    (left,) = (finding.message for finding in findings if finding.status is Status.UNCHECKED)
    assert "norm gains and ties" in left
    assert "does not describe" in left


def test_matrices_that_a_class_begins_at_zero_are_reported_and_not_refused(tmp_path):
    path = saved(
        tmp_path / "model", "xLSTMForCausalLM", num_heads=4, num_blocks=3, embedding_dim=64, tie_word_embeddings=False
    )
    findings = judged(path)
    assert Status.REFUSE not in {finding.status for finding in findings}, findings
    assert any("some classes begin so" in finding.message for finding in findings)
