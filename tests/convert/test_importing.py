"""Import: identity from the config and never invented, every byte kept, no lie let in unseen."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from apr.cli.main import run
from apr.convert import metering
from apr.convert.exporting import export_checkpoint
from apr.convert.importing import default_output, import_checkpoint
from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, UsageError
from apr.formats.base import StampKey
from apr.formats.registry import open_checkpoint
from apr.gates.road import deepen, examine, try_load
from tests.convert.conftest import copied, edit_config, facts
from tests.tiny_models import relabel


def test_an_import_carries_everything_and_passes_every_gate(model: Path, tmp_path: Path) -> None:
    result = import_checkpoint(model, tmp_path / "x.apr")
    assert facts(result.output) == facts(model)
    examination = deepen(examine(result.output))
    examination.close()
    assert examination.refusals == ()
    assert examination.facts.source_digest == result.weights_digest
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.recorded.weights_digest == result.weights_digest
        assert set(checkpoint.recorded.tensor_digests) == set(checkpoint.tensors)
        assert checkpoint.recorded.history == ()
        assert checkpoint.metadata["name"] == "x"


def test_typed_keys_come_from_the_config(models: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(import_checkpoint(models["qwen2"], tmp_path / "x.apr").output) as checkpoint:
        assert dict(checkpoint.typed) == {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 320,
            "intermediate_size": 96,
            "max_position_embeddings": 128,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-06,
        }


@pytest.mark.falsifies("FALSIFY-CONVERT-HF-ARCH-001")
def test_class_name_and_model_type_are_stamped(models: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(import_checkpoint(models["gpt2"], tmp_path / "x.apr").output) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "GPT2LMHeadModel"
        assert checkpoint.metadata["hf_model_type"] == "gpt2"
        assert checkpoint.metadata["architecture"] == "gpt2"


@pytest.mark.falsifies("FALSIFY-CONVERT-HF-ARCH-002")
def test_without_a_config_no_identity_is_invented(models: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(models["qwen2"] / "model.safetensors", alone)
    shutil.copy(models["qwen2"] / "config.json", tmp_path / "config.json")
    result = import_checkpoint(alone)
    assert result.output == tmp_path / "alone.apr"
    assert result.stamps == ()
    assert result.architecture is None
    assert any("--config" in note for note in result.notes)
    with open_checkpoint(result.output) as checkpoint:
        assert not {"architecture", "hf_architecture", "hf_model_type", "hidden_size"} & set(checkpoint.metadata)


def test_a_named_config_identifies_a_single_weights_file(models: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(models["qwen2"] / "model.safetensors", alone)
    result = import_checkpoint(alone, tmp_path / "x.apr", config_path=models["qwen2"] / "config.json")
    assert facts(result.output)["config"] == facts(models["qwen2"])["config"]
    assert {stamp.key for stamp in result.stamps} == set(StampKey)
    with pytest.raises(RefusedError, match="not what it says"):
        import_checkpoint(alone, tmp_path / "y.apr", config_path=models["gpt2"] / "config.json")
    with pytest.raises(UsageError, match="config of its own"):
        import_checkpoint(models["qwen2"], tmp_path / "y.apr", config_path=models["gpt2"] / "config.json")
    with pytest.raises(NotFoundError):
        import_checkpoint(alone, tmp_path / "y.apr", config_path=tmp_path / "missing.json")
    assert not (tmp_path / "y.apr").exists()


@pytest.mark.falsifies("FALSIFY-CONVERT-HF-ARCH-003")
def test_the_first_of_several_class_names_is_stamped_and_all_survive(models: dict[str, Path], tmp_path: Path) -> None:
    names = ["Qwen2ForCausalLM", "Qwen2Model"]
    source = edit_config(copied(models["qwen2"], tmp_path / "two"), architectures=names)
    with open_checkpoint(import_checkpoint(source).output) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "Qwen2ForCausalLM"
        assert checkpoint.config is not None
        assert checkpoint.config["architectures"] == names


def test_a_config_without_class_names_leaves_the_class_unset(models: dict[str, Path], tmp_path: Path) -> None:
    source = edit_config(copied(models["qwen2"], tmp_path / "classless"), architectures=None)
    with open_checkpoint(import_checkpoint(source).output) as checkpoint:
        assert "hf_architecture" not in checkpoint.metadata
        assert checkpoint.metadata["hf_model_type"] == "qwen2"


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_source_that_lies_is_refused_with_its_recipe(models: dict[str, Path], tmp_path: Path) -> None:
    lie = edit_config(copied(models["qwen2"], tmp_path / "lie"), architectures=["LlamaForCausalLM"], model_type="llama")
    with pytest.raises(RefusedError) as caught:
        import_checkpoint(lie, tmp_path / "x.apr")
    assert caught.value.invariant == "INV-INIT-ARCH-MATCH-001"
    text = str(caught.value)
    assert "--architecture qwen2 --hf-architecture Qwen2ForCausalLM --hf-model-type qwen2" in text
    assert "--allow-gate INV-INIT-ARCH-MATCH-001=REASON" in text
    assert not (tmp_path / "x.apr").exists()


def test_a_lie_let_in_is_recorded_and_still_refused_later(models: dict[str, Path], tmp_path: Path) -> None:
    lie = edit_config(copied(models["qwen2"], tmp_path / "lie"), architectures=["LlamaForCausalLM"], model_type="llama")
    result = import_checkpoint(lie, tmp_path / "x.apr", allowed_gates={"INV-INIT-ARCH-MATCH-001": "evidence"})
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.recorded.history[0]["overrides"] == {"INV-INIT-ARCH-MATCH-001": "evidence"}
    examination = examine(result.output)
    examination.close()
    assert "INV-INIT-ARCH-MATCH-001" in {finding.id for finding in examination.refusals}


@pytest.mark.planted_defect("INV-STAMP-AGREE-001")
def test_stamps_that_disagree_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    lie = edit_config(copied(models["qwen2"], tmp_path / "two"), model_type="llama")
    with pytest.raises(RefusedError) as caught:
        import_checkpoint(lie, tmp_path / "x.apr")
    assert "INV-STAMP-AGREE-001" in {finding["id"] for finding in caught.value.findings}


def test_an_architecture_nobody_knows_is_carried_along_unchecked(models: dict[str, Path], tmp_path: Path) -> None:
    source = edit_config(
        copied(models["qwen2"], tmp_path / "own"), architectures=["OursForCausalLM"], model_type="ours"
    )
    result = import_checkpoint(source)
    assert {finding.status for finding in result.findings if finding.id == "INV-INIT-ARCH-MATCH-001"} == {"unchecked"}
    with open_checkpoint(result.output) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "OursForCausalLM"
    half_known = edit_config(source, model_type="llama")
    with pytest.raises(RefusedError):
        import_checkpoint(half_known, tmp_path / "x.apr")


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_source_with_a_tensor_too_few_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    source = copied(models["gpt2"], tmp_path / "short")
    state = load_file(source / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.bias"]
    save_file(state, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError) as caught:
        import_checkpoint(source, tmp_path / "x.apr")
    assert "transformer.h.1.mlp.c_fc.bias" in json.dumps([dict(finding) for finding in caught.value.findings])


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_damaged_sources_are_not_sealed_with_fresh_checksums(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    data = bytearray(first.read_bytes())
    data[-300] ^= 1
    first.write_bytes(data)
    with pytest.raises(DamagedFileError):
        import_checkpoint(first, tmp_path / "y.apr")
    assert not (tmp_path / "y.apr").exists()


def test_foreign_metadata_of_a_weights_file_is_kept(models: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(models["qwen2"] / "model.safetensors")
    texts = {"format": "pt", "hf_architecture": "Qwen2ForCausalLM", "license": "MIT", "run": "17"}
    save_file(state, tmp_path / "w.safetensors", texts)
    with open_checkpoint(import_checkpoint(tmp_path / "w.safetensors").output) as checkpoint:
        assert checkpoint.metadata["hf_architecture"] == "Qwen2ForCausalLM"
        assert checkpoint.metadata["license"] == "MIT"
        assert checkpoint.metadata["source_metadata"] == {"format": "pt", "run": "17"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_an_interrupted_import_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    original = metering.copy_of

    def copy_that_fails(entry):
        def chunks():
            raise error
            yield b""

        tensor = original(entry)
        return type(tensor)(tensor.name, tensor.dtype, tensor.shape, chunks)

    monkeypatch.setattr(metering, "copy_of", copy_that_fails)
    with pytest.raises((InputOutputError, KeyboardInterrupt)):
        import_checkpoint(models["qwen2"], tmp_path / "x.apr")
    assert list(tmp_path.iterdir()) == []


def test_files_without_a_place_in_an_apr_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    source = copied(models["qwen2"], tmp_path / "with-card")
    (source / "README.md").write_text("a model card")
    assert any("README.md" in note for note in import_checkpoint(source).notes)
    assert import_checkpoint(models["qwen2"], tmp_path / "x.apr").notes == ()


def test_default_output_is_the_stem_beside_the_source(tmp_path: Path) -> None:
    (tmp_path / "Qwen2.5-0.5B").mkdir()
    assert default_output(tmp_path / "Qwen2.5-0.5B") == tmp_path / "Qwen2.5-0.5B.apr"
    assert default_output(tmp_path / "model.safetensors") == tmp_path / "model.apr"


@pytest.mark.parametrize("name", ["import", "convert"])
def test_the_command_answers_in_json(models: dict[str, Path], tmp_path: Path, capsys, name: str) -> None:
    assert run([name, str(models["qwen2"]), "-o", str(tmp_path / "x.apr"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "apr.import/1"
    assert document["status"] == "ok"
    assert document["architecture"] == "Qwen2ForCausalLM"
    assert document["ledger"] == {"counts": {"copied": 27}, "lines": []}
    assert document["score"] is None
    assert run([name, str(models["qwen2"]), "-o", str(tmp_path / "x.apr")]) == 5
    assert run([name, str(tmp_path / "missing"), "-o", str(tmp_path / "y.apr")]) == 3
    (tmp_path / "foreign").write_bytes(b"hello" * 100)
    assert run([name, str(tmp_path / "foreign"), "-o", str(tmp_path / "y.apr")]) == 4
    assert run([name, str(models["qwen2"]), "--allow-gate", "NO-SUCH=x", "-o", str(tmp_path / "y.apr")]) == 2
    assert not (tmp_path / "y.apr").exists()


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.parametrize("container", ["apr", "hf"])
def test_a_config_that_drifts_after_the_import_is_refused(
    models: dict[str, Path], tmp_path: Path, container: str
) -> None:
    imported = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    directory = export_checkpoint(imported, tmp_path / "out").output
    assert examine(imported).is_accepted
    assert examine(directory).is_accepted
    edit_config(directory, rms_norm_eps=1e-5)
    path = directory if container == "hf" else import_checkpoint(directory, tmp_path / "again.apr").output
    refusals = examine(path).refusals
    assert {finding.id for finding in refusals} == {"INV-INIT-CONFIG-001"}
    assert "rms_norm_eps was 1e-06 when the weights were saved and is 1e-05 now" in refusals[0].message


def test_a_source_that_pinned_its_facts_keeps_the_older_ones(models: dict[str, Path], tmp_path: Path) -> None:
    imported = import_checkpoint(models["llama-bf16"], tmp_path / "x.apr").output
    again = import_checkpoint(imported, tmp_path / "y.apr").output
    with open_checkpoint(imported) as first, open_checkpoint(again) as second:
        assert first.recorded.config_facts["rms_norm_eps"] == 1e-6
        assert dict(second.recorded.config_facts) == dict(first.recorded.config_facts)


def test_nothing_is_pinned_where_nothing_is_recorded(models: dict[str, Path], tmp_path: Path) -> None:
    bare = models["gpt2"] / "model.safetensors"
    with open_checkpoint(import_checkpoint(bare, tmp_path / "x.apr").output) as checkpoint:
        assert dict(checkpoint.recorded.config_facts) == {}


def test_a_label_that_is_repaired_after_the_import_is_no_drift(models: dict[str, Path], tmp_path: Path) -> None:
    liar = relabel(copied(models["qwen2"], tmp_path / "liar"), "llama", "LlamaForCausalLM")
    allowed = {"INV-INIT-ARCH-MATCH-001": "as it was found"}
    imported = import_checkpoint(liar, tmp_path / "x.apr", allowed_gates=allowed).output
    repair = ["--architecture", "qwen2", "--hf-architecture", "Qwen2ForCausalLM", "--hf-model-type", "qwen2"]
    assert run(["stamp", str(imported), *repair, "--in-place"]) == 0
    assert examine(imported).refusals == ()


@pytest.mark.planted_defect("INV-INIT-PROBE-001")
def test_a_probe_is_recorded_on_request_and_held_against_later_loads(model: Path, tmp_path: Path) -> None:
    assert import_checkpoint(model, tmp_path / "without.apr").probe_loss is None
    result = import_checkpoint(model, tmp_path / "x.apr", with_probe=True)
    directory = export_checkpoint(result.output, tmp_path / "out").output
    for path in (result.output, directory):
        loaded, examination = try_load(examine(path))
        assert loaded is not None
        assert {each.status.value for each in examination.findings if each.id == "INV-INIT-PROBE-001"} == {"pass"}
    for name in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps"):
        if name in json.loads((directory / "config.json").read_text()):
            edit_config(directory, **{name: 0.1})
    record = json.loads((directory / "apr.json").read_text())
    (directory / "apr.json").write_text(json.dumps({**record, "config_facts": {}}))
    refusals = try_load(examine(directory))[1].refusals
    assert {finding.id for finding in refusals} == {"INV-INIT-PROBE-001"}


def test_a_probe_of_the_source_is_kept(models: dict[str, Path], tmp_path: Path) -> None:
    imported = import_checkpoint(models["qwen2"], tmp_path / "x.apr", with_probe=True)
    again = import_checkpoint(imported.output, tmp_path / "y.apr", with_probe=True)
    assert facts(again.output) == facts(imported.output)
    assert again.probe_loss == imported.probe_loss


def test_a_source_that_no_gate_lets_load_gets_no_probe(models: dict[str, Path], tmp_path: Path) -> None:
    bare = models["qwen2"] / "model.safetensors"
    with pytest.raises(RefusedError):
        import_checkpoint(bare, tmp_path / "x.apr", with_probe=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_which_probe_it_recorded(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["import", str(models["qwen2"]), "-o", str(tmp_path / "x.apr"), "--probe", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["probe_loss"] > 0
