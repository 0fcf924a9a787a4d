"""Each header gate turns red on its planted defect, in every container, and stays green on the clean twin."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from apr.errors import DamagedFileError, NotFoundError, RefusedError
from apr.gates.finding import Status
from apr.gates.road import RoadOptions, examine, refuse_unless_accepted
from tests.gates.conftest import Source
from tests.tiny_models import CONFIGS, VOCABULARY, relabel, save_tiny

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BIAS = "model.layers.1.self_attn.q_proj.bias"


def refusing(path, **options) -> dict[str, str]:
    """Ids that refuse, each with its first message."""
    examination = examine(path, RoadOptions(**options))
    examination.close()
    ids: dict[str, str] = {}
    for finding in examination.refusals:
        ids.setdefault(finding.id, finding.message)
    return ids


def test_a_healthy_checkpoint_is_accepted_in_every_container(source: Source):
    examination = examine(source.deliver())
    assert examination.is_accepted, examination.refusals
    assert {finding.id for finding in examination.findings if finding.status is Status.PASS} >= {
        "FALSIFY-APR-PRETRAIN-INIT-003",
        "FALSIFY-APR-PRETRAIN-INIT-004",
        "FALSIFY-APR-PRETRAIN-INIT-005",
        "INV-FILE-INTEGRITY-001",
        "INV-STAMP-AGREE-001",
        "INV-INIT-ARCH-MATCH-001",
        "FALSIFY-APR-PRETRAIN-ARCH-007",
        "INV-INIT-COVERAGE-001",
        "INV-INIT-SHAPE-001",
        "INV-INIT-CONFIG-001",
    }


def test_a_tied_checkpoint_is_accepted_in_every_container(tied_source: Source):
    examination = examine(tied_source.deliver())
    assert examination.is_accepted, examination.refusals
    assert [ruling.name for ruling in examination.facts.plan.ledger.tied] == [HEAD]


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tiny_model_is_accepted_as_what_it_is(tmp_path, model_type, dtype):
    examination = examine(save_tiny(tmp_path / "model", model_type, dtype=dtype), RoadOptions(may_use_zoo=True))
    assert examination.is_accepted, examination.refusals
    assert examination.facts.plan.ledger.balances
    assert examination.facts.plan.target.architecture.model_type == model_type


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-003")
def test_a_missing_path_is_not_found(tmp_path):
    examination = examine(tmp_path / "absent.apr")
    assert "FALSIFY-APR-PRETRAIN-INIT-003" in {finding.id for finding in examination.refusals}
    with pytest.raises(NotFoundError, match="absent"):
        refuse_unless_accepted(examination)


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-004")
@pytest.mark.parametrize("content", [b"", b"A", b"APR", b"PK\3\4" + b"\0" * 100, b"\0" * 4096], ids=repr)
def test_an_empty_or_foreign_file_is_not_recognised(tmp_path, content):
    path = tmp_path / "model.apr"
    path.write_bytes(content)
    examination = examine(path)
    assert "FALSIFY-APR-PRETRAIN-INIT-004" in {finding.id for finding in examination.refusals}
    with pytest.raises(DamagedFileError):
        refuse_unless_accepted(examination)


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_file_that_ends_early_is_refused(source: Source):
    path = source.deliver()
    weights = path if path.is_file() else sorted(path.glob("*.safetensors"))[-1]
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 100)
    examination = examine(path)
    assert "INV-FILE-INTEGRITY-001" in {finding.id for finding in examination.refusals}
    with pytest.raises(RefusedError):
        refuse_unless_accepted(examination)


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_missing_shard_is_refused(qwen2, tmp_path):
    path = Source(qwen2, "sharded", tmp_path).deliver()
    (path / "model-00001-of-00002.safetensors").unlink()
    assert "INV-FILE-INTEGRITY-001" in refusing(path)


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
def test_a_checkpoint_without_any_stamp_is_refused_with_the_stamp_it_needs(source: Source):
    def unstamp(config):
        del config["architectures"], config["model_type"]

    path = source.deliver(config=unstamp)
    examination = examine(path)
    finding = next(each for each in examination.refusals if each.id == "FALSIFY-APR-PRETRAIN-INIT-005")
    assert "does not say what it is" in finding.message
    assert "--hf-architecture Qwen2ForCausalLM" in finding.remedy


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
@pytest.mark.parametrize("value", [0, -1, "two", 2.5, None, 10**12, True])
def test_an_insane_layer_count_is_refused_before_anything_is_allocated(source: Source, value):
    path = source.deliver(config=lambda config: config.update(num_hidden_layers=value))
    assert refusing(path).keys() & {
        "FALSIFY-APR-PRETRAIN-INIT-005",
        "INV-INIT-COVERAGE-001",
        "INV-INIT-CONFIG-001",
    }


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_stamps_that_disagree_are_refused_naming_both(source: Source):
    path = source.deliver(config=lambda config: config.update(architectures=["LlamaForCausalLM"]))
    message = refusing(path)["INV-STAMP-AGREE-001"]
    assert "LlamaForCausalLM" in message
    assert "qwen2" in message


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_a_stamp_outside_the_vocabulary_is_refused(source: Source):
    path = source.deliver(config=lambda config: config.update(architectures=["QwenForCausalLM2"]))
    assert "QwenForCausalLM2" in refusing(path)["INV-STAMP-AGREE-001"]


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_the_founding_defect_is_refused_with_counts_and_recipe(source: Source):
    def mislabel(config):
        config.update(model_type="llama", architectures=["LlamaForCausalLM"])

    path = source.deliver(config=mislabel)
    examination = examine(path, RoadOptions(retry_command="apr pretrain --init {path} --dataset D"))
    by_id = {finding.id: finding for finding in examination.refusals}
    match = by_id["INV-INIT-ARCH-MATCH-001"]
    assert "the stamps say llama (LlamaForCausalLM), the tensors show qwen2 (Qwen2ForCausalLM)" in match.message
    assert "21 filled; 0 unfilled; 6 unused: model.layers.{0–1}.self_attn.{q,k,v}_proj.bias (6)" in match.message
    assert f"ln({VOCABULARY}) = {math.log(VOCABULARY):.4f}" in match.message
    stamp, retry = match.remedy.splitlines()
    assert stamp.startswith(f"apr stamp {path} --architecture qwen2 --hf-architecture Qwen2ForCausalLM")
    assert "--hf-model-type qwen2 -o " in stamp
    assert retry == f"apr pretrain --init {stamp.rpartition(' -o ')[2]} --dataset D"
    coverage = by_id["INV-INIT-COVERAGE-001"]
    assert "6 file tensors would not be used" in coverage.message
    assert (coverage.expected, coverage.remedy) == ("0 unfilled, 0 unused", match.remedy)


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("model_type", [name for name in CONFIGS if name not in {"llama", "mistral", "gemma"}])
def test_every_family_stamped_llama_is_refused(tmp_path, model_type):
    path = relabel(save_tiny(tmp_path / "model", model_type), "llama", "LlamaForCausalLM")
    assert "INV-INIT-ARCH-MATCH-001" in refusing(path, may_use_zoo=True)


@pytest.mark.parametrize("model_type", ["mistral", "gemma"])
def test_name_twins_stamped_llama_are_ambiguous_never_a_match(tmp_path, model_type):
    path = relabel(save_tiny(tmp_path / "model", model_type, tie_word_embeddings=False), "llama", "LlamaForCausalLM")
    examination = examine(path)
    assert examination.facts.verdict.kind.value == "ambiguous"


def test_a_biased_llama_is_not_a_qwen2(tmp_path):
    examination = examine(save_tiny(tmp_path / "model", "llama", attention_bias=True))
    assert examination.is_accepted, examination.refusals


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-007")
def test_an_encoder_is_refused_whatever_its_label(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=99)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    assert "FALSIFY-APR-PRETRAIN-ARCH-007" in refusing(tmp_path / "bert", may_use_zoo=True)


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize(
    ("edit", "side"),
    [
        (lambda state: state.pop(BIAS), "would not be filled"),
        (lambda state: state.pop(HEAD), "would not be filled"),
        (lambda state: state.update({"model.extra.weight": np.ones((2, 2), np.float32)}), "would not be used"),
    ],
    ids=["bias missing", "untied head missing", "stray tensor"],
)
def test_one_tensor_too_few_or_too_many_is_refused(source: Source, edit, side):
    assert side in refusing(source.deliver(tensors=edit))["INV-INIT-COVERAGE-001"]


def test_an_allowed_tensor_passes_alone_and_is_recorded(source: Source):
    path = source.deliver(tensors=lambda state: state.update({"stray": np.ones(2, np.float32)}))
    assert "INV-INIT-COVERAGE-001" in refusing(path)
    examination = examine(path, RoadOptions(allowed_tensors={"stray": "left by an old tool"}))
    assert "INV-INIT-COVERAGE-001" not in {finding.id for finding in examination.refusals}
    ruling = next(each for each in examination.facts.plan.ledger.ruled if each.name == "stray")
    assert ruling.reason == "left by an old tool"


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.down_proj.weight", EMBEDDING, "model.layers.1.self_attn.k_proj.weight"]
)
def test_a_transposed_tensor_of_equal_size_is_refused(source: Source, name):
    def transpose(state):
        state[name] = np.ascontiguousarray(state[name].T)

    assert refusing(source.deliver(tensors=transpose)).keys() & {"INV-INIT-SHAPE-001", "INV-INIT-CONFIG-001"}


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", 128), ("intermediate_size", 100), ("vocab_size", 400), ("num_key_value_heads", 4)],
)
def test_a_dimension_that_no_tensor_has_is_refused(source: Source, key, value):
    ids = refusing(source.deliver(config=lambda config: config.update({key: value})))
    assert ids.keys() & {"INV-INIT-SHAPE-001", "INV-INIT-CONFIG-001"}


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize("layers", [1, 3])
def test_a_wrong_layer_count_is_refused(source: Source, layers):
    def edit(config):
        config.update(num_hidden_layers=layers, layer_types=["full_attention"] * layers)

    assert "INV-INIT-COVERAGE-001" in refusing(source.deliver(config=edit))


@pytest.mark.planted_defect("INV-LINEAGE-001")
def test_a_recorded_weights_digest_that_is_not_that_of_the_digests_is_refused(qwen2, tmp_path):
    path = Source(qwen2, "hf", tmp_path).deliver()
    record = {"schema": "apr.recorded/1", "weights_digest": "blake3:" + "0" * 64, "tensor_digests": {}}
    (path / "apr.json").write_text(json.dumps(record))
    assert "INV-LINEAGE-001" in refusing(path)


@pytest.mark.planted_defect("INV-LINEAGE-001")
def test_a_parent_that_is_no_digest_is_refused(qwen2, tmp_path):
    path = Source(qwen2, "hf", tmp_path).deliver()
    record = {"schema": "apr.recorded/1", "training": {"parent_digest": "the one from Tuesday"}}
    (path / "apr.json").write_text(json.dumps(record))
    assert "not named by a weights digest" in refusing(path)["INV-LINEAGE-001"]


def test_a_stale_total_size_in_the_index_is_noted_and_accepted(qwen2, tmp_path):
    path = Source(qwen2, "sharded", tmp_path).deliver()
    index_path = path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["metadata"]["total_size"] += 4096
    index_path.write_text(json.dumps(index))
    examination = examine(path)
    assert examination.is_accepted, examination.refusals
    assert any("harmless" in finding.message for finding in examination.findings)


@pytest.mark.parametrize("name", [".", ".."])
def test_a_directory_that_is_named_from_inside_is_examined_and_its_repair_put_beside_it(tmp_path, monkeypatch, name):
    directory = save_tiny(tmp_path / "runs" / "Qwen2.5-0.5B", "qwen2")
    inside = directory / "notes"
    inside.mkdir()
    monkeypatch.chdir(directory if name == "." else inside)
    assert examine(Path(name)).is_accepted
    relabel(directory, "llama", "LlamaForCausalLM")
    remedies = [str(finding.remedy) for finding in examine(Path(name)).refusals]
    assert any(f"-o {tmp_path}/runs/Qwen2.5-0.5B.qwen2\n" in remedy for remedy in remedies)


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-009")
@pytest.mark.parametrize(("added", "is_accepted"), [(20, True), (21, False)])
def test_special_tokens_that_the_tokenizer_adds_when_it_is_loaded_need_rows_too(tmp_path, added, is_accepted):
    path = save_tiny(tmp_path / "model", "llama")
    words = {f"w{number}": number for number in range(VOCABULARY - 20)}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": words}}))
    tokens = [f"<extra{number}>" for number in range(added)]
    (path / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": tokens}))
    assert examine(path).is_accepted is is_accepted
