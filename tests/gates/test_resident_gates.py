"""The gates that look at the loaded model: receipt, idempotence, buffers, probe, step 0, fresh state, generation."""

import json
import math

import pytest
import torch

from apr.errors import RefusedError
from apr.formats.recorded import Recorded, TrainingRecord
from apr.gates.facts import Fresh, Step0, Written
from apr.gates.finding import Status
from apr.gates.road import RoadOptions, check_saved, check_step0, deepen, examine, load, try_load
from apr.gates.runner import check_overrides
from apr.loading import materialise as materialise_module
from apr.loading.on_disk import on_disk_state_dict
from apr.loading.probe import record_probe
from apr.loading.receipt import resident_digests
from tests.gates.conftest import CONTAINERS, Source
from tests.tiny_models import CONFIGS, VOCABULARY, relabel, save_tiny


def refusing(examination) -> set[str]:
    return {finding.id for finding in examination.refusals}


def after_load(monkeypatch, change) -> None:
    """Let `change(model)` happen after the zoo's loader is done, as post-load hooks do."""

    def patched(checkpoint, plan, **keywords):
        done = original_materialise(checkpoint, plan, **keywords)
        with torch.no_grad():
            change(done.model)
        return done

    original_materialise = materialise_module.materialise
    monkeypatch.setattr(materialise_module, "materialise", patched)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_tiny_model_loads_with_a_full_receipt(tmp_path, model_type):
    path = save_tiny(tmp_path / "model", model_type)
    loaded = load(examine(path, RoadOptions(may_use_zoo=True)))
    assert loaded.receipt.problems == ()
    assert loaded.receipt.tensors_written == len(loaded.examination.facts.plan.assignments)
    assert loaded.receipt.bytes_read == sum(
        entry.size_bytes for entry in loaded.examination.facts.checkpoint.tensors.values()
    )
    tokens = torch.arange(24)[None] % VOCABULARY
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(path)(tokens).logits
        assert torch.equal(loaded.model(tokens).logits, theirs)


@pytest.mark.parametrize("container", CONTAINERS)
def test_two_loads_give_the_same_digest(qwen2, tmp_path, container):
    path = Source(qwen2, container, tmp_path).deliver()
    first, second = load(examine(path)), load(examine(path))
    assert first.receipt.weights_digest == second.receipt.weights_digest
    assert first.receipt.resident_digests == second.receipt.resident_digests


def test_a_cast_is_declared_and_proven(qwen2):
    from apr.formats.dtypes import DType

    loaded = load(examine(qwen2, RoadOptions(dtype=DType.BF16)))
    assert loaded.model.dtype is torch.bfloat16
    assert not any(each.is_bit_exact for each in loaded.examination.facts.plan.assignments)
    assert loaded.receipt.weights_digest == load(examine(qwen2)).receipt.weights_digest


def test_the_model_owns_its_memory(qwen2, tmp_path):
    path = Source(qwen2, "apr", tmp_path).deliver()
    loaded = load(examine(path))
    before = resident_digests(on_disk_state_dict(loaded.model))
    path.write_bytes(b"\0" * path.stat().st_size)
    assert resident_digests(on_disk_state_dict(loaded.model)) == before


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj.bias", "lm_head.weight", "model.norm.weight"])
def test_a_tensor_changed_after_the_load_is_refused(qwen2, tmp_path, monkeypatch, container, name):
    after_load(monkeypatch, lambda model: model.get_parameter(name).view(-1)[-1].add_(1e-3))
    examination = try_load(examine(Source(qwen2, container, tmp_path).deliver()))[1]
    assert "INV-INIT-RECEIPT-001" in refusing(examination)
    assert any(name in finding.message for finding in examination.refusals)


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_broken_tie_is_refused(qwen2_tied, monkeypatch):
    def untie(model):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())

    after_load(monkeypatch, untie)
    assert "INV-INIT-RECEIPT-001" in refusing(try_load(examine(qwen2_tied))[1])


@pytest.mark.planted_defect("INV-INIT-BUFFERS-001")
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_garbage_rotary_table_is_refused(qwen2, tmp_path, monkeypatch, container):
    after_load(monkeypatch, lambda model: model.model.rotary_emb.inv_freq.mul_(1.001))
    examination = try_load(examine(Source(qwen2, container, tmp_path).deliver()))[1]
    assert refusing(examination) == {"INV-INIT-BUFFERS-001"}


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-010")
def test_a_file_that_changes_between_check_and_load_is_refused(qwen2, tmp_path):
    path = Source(qwen2, "hf", tmp_path).deliver()
    examination = deepen(examine(path))
    examination = examination._replace(facts=examination.facts._replace(source_digest="blake3:" + "0" * 64))
    assert "FALSIFY-APR-PRETRAIN-INIT-010" in refusing(try_load(examination)[1])


def with_record(path, recorded: Recorded) -> None:
    (path / "apr.json").write_text(json.dumps(recorded.to_json()))


@pytest.fixture
def recorded_probe(qwen2):
    return record_probe(load(examine(qwen2)).model)


def test_a_recorded_probe_is_reproduced(qwen2, tmp_path, recorded_probe):
    path = Source(qwen2, "hf", tmp_path).deliver()
    with_record(path, Recorded(probe=recorded_probe))
    loaded = load(examine(path))
    statuses = {finding.id: finding.status for finding in loaded.examination.findings}
    assert statuses["INV-INIT-PROBE-001"] is Status.PASS
    assert loaded.examination.facts.probe.loss_difference == 0


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
@pytest.mark.parametrize(
    "drift",
    [
        {"rms_norm_eps": 1e-2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"hidden_act": "gelu"},
        {"num_attention_heads": 2, "num_key_value_heads": 1},
    ],
    ids=["eps", "rope base", "activation", "head split"],
)
def test_config_drift_that_no_tensor_shows_is_refused_by_the_probe(qwen2, tmp_path, recorded_probe, drift):
    path = Source(qwen2, "hf", tmp_path).deliver(config=lambda config: config.update(drift))
    with_record(path, Recorded(probe=recorded_probe))
    assert "INV-INIT-PROBE-001" in refusing(try_load(examine(path))[1])


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_name_twin_is_refused_by_the_probe(tmp_path):
    path = save_tiny(tmp_path / "gemma", "gemma", tie_word_embeddings=False)
    probe = record_probe(load(examine(path)).model)
    with_record(relabel(path, "llama", "LlamaForCausalLM"), Recorded(probe=probe))
    # Its norm gains give it away before; the probe has to see it alone.
    options = RoadOptions(allowed_gates={"INV-INIT-VALUES-001": "only the probe is asked"})
    assert "INV-INIT-PROBE-001" in refusing(try_load(examine(path, options))[1])


SET_HASH = "blake3:" + "5" * 64
FRESH = Fresh(optimizer_state_count=0, schedule_step=0)


def step0_of(path, loss: float, set_hash: str = SET_HASH, fresh: Fresh = FRESH):
    return check_step0(examine(path), Step0(loss, set_hash, VOCABULARY, tolerance_relative=1e-4), fresh)


@pytest.mark.parametrize("loss", [4.0, 4.0003])
def test_the_recorded_loss_is_continued(qwen2, tmp_path, loss):
    path = Source(qwen2, "hf", tmp_path).deliver()
    with_record(path, Recorded(training=TrainingRecord(validation_loss=4.0, validation_set_hash=SET_HASH)))
    assert step0_of(path, loss).is_accepted


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
@pytest.mark.parametrize("loss", [4.001, 3.9, 8.6, math.nan, math.inf])
def test_another_loss_than_recorded_is_refused(qwen2, tmp_path, loss):
    path = Source(qwen2, "hf", tmp_path).deliver()
    with_record(path, Recorded(training=TrainingRecord(validation_loss=4.0, validation_set_hash=SET_HASH)))
    assert refusing(step0_of(path, loss)) == {"INV-INIT-LOSS-001"}


@pytest.mark.parametrize("share", [0.969, 0.8, 0.1])
def test_without_a_record_the_loss_must_clearly_beat_a_uniform_guess(qwen2, share):
    assert step0_of(qwen2, share * math.log(VOCABULARY)).is_accepted


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
@pytest.mark.parametrize("loss", [math.log(VOCABULARY), 8.0, math.nan])
def test_without_a_record_a_uniform_guess_is_refused(qwen2, loss):
    examination = step0_of(qwen2, loss)
    assert refusing(examination) == {"INV-INIT-LOSS-001"}
    assert f"ln({VOCABULARY:,})" in examination.refusals[0].expected


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
@pytest.mark.parametrize("share", [0.999, 0.975])
def test_a_hair_below_a_uniform_guess_is_luck(qwen2, share):
    """Half of all untrained models score a little better than a uniform guess."""
    examination = step0_of(qwen2, share * math.log(VOCABULARY))
    assert refusing(examination) == {"INV-INIT-LOSS-001"}
    refusal = examination.refusals[0]
    assert refusal.message.endswith("no further below it than chance")
    assert refusal.expected == f"below {0.97 * math.log(VOCABULARY):.4f}, which is 3 % under ln(320) = 5.7683"


def test_a_weak_model_whose_probe_is_reproduced_needs_no_margin(qwen2, tmp_path):
    path = Source(qwen2, "hf", tmp_path).deliver()
    model = load(examine(path)).model
    with_record(path, Recorded(probe=record_probe(model)))
    loaded = load(examine(path)).examination
    step0 = Step0(0.999 * math.log(VOCABULARY), SET_HASH, VOCABULARY, tolerance_relative=1e-4)
    assert check_step0(loaded, step0, FRESH).is_accepted
    assert refusing(check_step0(loaded, step0._replace(loss=1.001 * math.log(VOCABULARY)), FRESH)) == {
        "INV-INIT-LOSS-001"
    }


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-009")
@pytest.mark.parametrize("fresh", [Fresh(2, 0), Fresh(0, 7)])
def test_state_from_elsewhere_is_refused(qwen2, fresh):
    assert refusing(step0_of(qwen2, 4.0, fresh=fresh)) == {"FALSIFY-APR-PRETRAIN-INIT-009"}


def written(qwen2, **changes) -> Written:
    loaded = load(examine(qwen2))
    facts = loaded.examination.facts
    meant = Written(
        facts.plan.target.architecture, dict(facts.checkpoint.config), dict(loaded.receipt.resident_digests)
    )
    return meant._replace(**changes)


def test_a_faithful_second_generation_is_accepted(qwen2):
    assert check_saved(qwen2, written(qwen2)).is_accepted


@pytest.mark.planted_defect("INV-GENERATION-001")
def test_a_second_generation_with_another_identity_is_refused(qwen2, tmp_path):
    meant = written(qwen2)
    path = Source(qwen2, "hf", tmp_path).deliver(
        config=lambda config: config.update(model_type="llama", architectures=["LlamaForCausalLM"])
    )
    assert "INV-GENERATION-001" in refusing(check_saved(path, meant))


@pytest.mark.planted_defect("INV-GENERATION-001")
def test_a_second_generation_with_a_drifted_config_is_refused(qwen2, tmp_path):
    path = Source(qwen2, "hf", tmp_path).deliver(config=lambda config: config.update(rms_norm_eps=1e-5))
    examination = check_saved(path, written(qwen2))
    assert any("rms_norm_eps" in finding.message for finding in examination.refusals)


@pytest.mark.planted_defect("INV-GENERATION-001")
def test_a_second_generation_with_other_weights_is_refused(qwen2):
    meant = written(qwen2)
    changed = {**meant.resident_digests, "model.norm.weight": "0" * 64}
    assert "INV-GENERATION-001" in refusing(check_saved(qwen2, meant._replace(resident_digests=changed)))


def test_a_refused_start_gives_no_model(qwen2, tmp_path):
    def mislabel(config):
        config.update(model_type="llama", architectures=["LlamaForCausalLM"])

    path = Source(qwen2, "hf", tmp_path).deliver(config=mislabel)
    assert try_load(examine(path))[0] is None
    with pytest.raises(RefusedError, match="INV-INIT-ARCH-MATCH-001") as caught:
        load(examine(path))
    assert {finding["id"] for finding in caught.value.findings} >= {"INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001"}


def test_an_override_lets_one_gate_through_and_says_so(qwen2):
    options = RoadOptions(allowed_gates={"INV-INIT-LOSS-001": "the corpus is another language"})
    examination = check_step0(examine(qwen2, options), Step0(9.0, SET_HASH, VOCABULARY, 1e-4), FRESH)
    assert examination.is_accepted
    finding = next(each for each in examination.findings if each.id == "INV-INIT-LOSS-001")
    assert finding.status is Status.UNCHECKED
    assert "the corpus is another language" in finding.message
    assert "would have refused" in finding.message


@pytest.mark.parametrize("override", [{"INV-NO-SUCH-001": "because"}, {"INV-INIT-LOSS-001": "  "}])
def test_an_override_names_a_gate_and_a_reason(override):
    from apr.errors import UsageError

    with pytest.raises(UsageError, match="gives a reason"):
        check_overrides(override)
