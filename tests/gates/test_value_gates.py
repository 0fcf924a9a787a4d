"""The gates that read every byte: checksums, recorded digests, and values that no healthy tensor of a role has."""

import json

import numpy as np
import pytest

from apr.gates.finding import Status
from apr.gates.road import RoadOptions, deepen, examine
from tests.gates.conftest import Source
from tests.tiny_models import save_tiny

NORM = "model.layers.1.input_layernorm.weight"
PROJECTION = "model.layers.1.self_attn.v_proj.weight"
BIAS = "model.layers.1.self_attn.v_proj.bias"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def refusing_deep(path) -> dict[str, str]:
    examination = deepen(examine(path))
    examination.close()
    ids: dict[str, str] = {}
    for finding in examination.refusals:
        ids.setdefault(finding.id, finding.message + f" | {finding.found}")
    return ids


def test_a_healthy_checkpoint_is_accepted_after_every_byte_was_read(source: Source):
    examination = deepen(examine(source.deliver()))
    assert examination.is_accepted, examination.refusals
    assert examination.facts.source_digest.startswith("blake3:")


def test_equal_weights_have_one_digest_in_every_container(qwen2, tmp_path):
    digests = set()
    for container in ("hf", "sharded", "apr"):
        (tmp_path / container).mkdir()
        path = Source(qwen2, container, tmp_path / container).deliver()
        digests.add(deepen(examine(path)).facts.source_digest)
    assert len(digests) == 1


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [PROJECTION, NORM, BIAS, EMBEDDING])
def test_one_non_finite_value_is_refused(source: Source, name, poison):
    def edit(state):
        state[name].reshape(-1)[-1] = poison

    message = refusing_deep(source.deliver(tensors=edit))["INV-INIT-VALUES-001"]
    assert "NaN or infinite" in message
    assert name in message


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("name", [PROJECTION, EMBEDDING, HEAD])
def test_a_matrix_of_one_value_is_refused(source: Source, name, value):
    message = refusing_deep(source.deliver(tensors=lambda state: state[name].fill(value)))["INV-INIT-VALUES-001"]
    assert "which their role forbids" in message
    assert name in message


@pytest.mark.parametrize("name", [BIAS, "model.layers.0.self_attn.k_proj.bias"])
def test_a_zero_bias_is_legitimate(source: Source, name):
    assert refusing_deep(source.deliver(tensors=lambda state: state[name].fill(0))) == {}


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_one_fresh_norm_among_trained_ones_is_refused(tmp_path):
    from tests.tiny_models import save_tiny

    source = Source(save_tiny(tmp_path / "deep", "qwen2", num_hidden_layers=4), "hf", tmp_path)
    message = refusing_deep(source.deliver(tensors=lambda state: state[NORM].fill(1.0)))["INV-INIT-VALUES-001"]
    assert "initial value" in message
    assert NORM in message


def test_norms_that_are_all_fresh_are_an_untrained_model_not_a_lie(source: Source):
    def edit(state):
        for name, array in state.items():
            if "norm" in name:
                array.fill(1.0)

    assert refusing_deep(source.deliver(tensors=edit)) == {}


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_a_head_stored_beside_its_tie_must_equal_it(tied_source: Source):
    def edit(state):
        state[HEAD] = state[EMBEDDING] + 1

    message = refusing_deep(tied_source.deliver(tensors=edit))["INV-INIT-VALUES-001"]
    assert "the config ties lm_head.weight" in message


def test_a_head_stored_again_with_equal_bytes_is_legitimate(tied_source: Source):
    def edit(state):
        state[HEAD] = state[EMBEDDING].copy()

    assert refusing_deep(tied_source.deliver(tensors=edit)) == {}


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_a_flipped_byte_in_an_apr_file_is_refused(qwen2, tmp_path, where):
    path = Source(qwen2, "apr", tmp_path).deliver()
    raw = bytearray(path.read_bytes())
    data_start = len(raw) // 10
    position = data_start + int((len(raw) - data_start - 8) * where)
    raw[position] ^= 0x01
    path.write_bytes(raw)
    ids = refusing_deep(path)
    assert ids.keys() & {"INV-FILE-INTEGRITY-001", "INV-LINEAGE-001"}


@pytest.mark.planted_defect("INV-LINEAGE-001")
def test_bytes_other_than_recorded_are_refused_in_a_directory(qwen2, tmp_path):
    from apr.loading.digest import weights_digest

    path = Source(qwen2, "hf", tmp_path).deliver()
    examination = deepen(examine(path))
    leaves = [seen.digest for seen in examination.facts.values.values()]
    record = {
        "schema": "apr.recorded/1",
        "tensor_digests": {leaf.name: leaf.blake3_hex for leaf in leaves},
        "weights_digest": weights_digest(leaves),
    }
    (path / "apr.json").write_text(json.dumps(record))
    assert refusing_deep(path) == {}
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-3] ^= 0x01
    (path / "model.safetensors").write_bytes(raw)
    assert "INV-LINEAGE-001" in refusing_deep(path)


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_values_that_are_let_through_by_name_are_said_and_not_counted_as_sound(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    path = save_tiny(tmp_path / "model", "qwen2")
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert {finding.id for finding in deepen(examine(path)).refusals} == {"INV-INIT-VALUES-001"}
    allowed = RoadOptions(allowed_tensors={"model.norm.weight": "repaired after loading"})
    examination = deepen(examine(path, allowed))
    said = [finding for finding in examination.findings if finding.id == "INV-INIT-VALUES-001"]
    assert Status.REFUSE not in [finding.status for finding in said]
    assert [finding.message for finding in said if finding.status is Status.UNCHECKED] == [
        "values let through by name, and not judged: model.norm.weight"
    ]
    assert [finding.message for finding in said if finding.status is Status.PASS] == [
        f"{len(tensors) - 1} tensors hold finite values that fit their roles"
    ]
