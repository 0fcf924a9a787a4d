"""Export: transformers opens the result at once, every tensor is accounted for, nothing is invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from apr.cli.main import run
from apr.convert.dequantizing import rounded_bytes
from apr.convert.export_plan import ExportFormat
from apr.convert.exporting import export_checkpoint
from apr.convert.importing import import_checkpoint
from apr.errors import RefusedError, UsageError
from apr.formats.apr2.write import write_apr2
from apr.formats.base import Checkpoint
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.writing import TensorToWrite, copy_of, tensor_from_bytes
from apr.stamping.changes import StampChanges
from apr.stamping.patch import stamp_file
from tests.convert.conftest import copied, edit_config, facts
from tests.quality.founding import write_founding_file


def logits(directory: Path) -> np.ndarray:
    """Logits of the model in `directory`, opened as any user of transformers opens it."""
    import torch
    from transformers import AutoModelForCausalLM

    from apr.loading.quiet import quiet_zoo

    with quiet_zoo():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    with torch.no_grad():
        return model(torch.arange(16).reshape(1, 16)).logits.float().numpy()


@pytest.mark.interop
def test_transformers_opens_an_export_with_equal_logits_and_its_tokenizer(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    first = import_checkpoint(model, tmp_path / "x.apr").output
    output = export_checkpoint(first, tmp_path / "hf").output
    np.testing.assert_array_equal(logits(output), logits(model))
    text = "## import numpy as np"
    assert AutoTokenizer.from_pretrained(output)(text).input_ids == AutoTokenizer.from_pretrained(model)(text).input_ids


@pytest.mark.interop
def test_a_repaired_founding_file_exports_and_opens(tmp_path: Path) -> None:
    lie = write_founding_file(tmp_path / "lie.apr")
    changes = StampChanges(architecture="qwen2", hf_architecture="Qwen2ForCausalLM", hf_model_type="qwen2")
    repaired = stamp_file(lie, changes, tmp_path / "true.apr").output
    output = export_checkpoint(repaired, tmp_path / "hf").output
    config = json.loads((output / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["rope_parameters"]["rope_theta"] == 1_000_000.0
    assert np.isfinite(logits(output)).all()


def test_a_typed_only_file_that_lacks_a_fact_is_refused_with_the_fact(tmp_path: Path) -> None:
    stamps = {"architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"}
    file = write_founding_file(tmp_path / "x.apr", **stamps, rope_theta=None)
    with pytest.raises(RefusedError, match="not known in full") as caught:
        export_checkpoint(file, tmp_path / "hf")
    assert "rope_theta" in str(caught.value.found)
    assert "--set rope_theta=VALUE" in str(caught.value.remedy)
    assert not (tmp_path / "hf").exists()


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
@pytest.mark.parametrize("format_", list(ExportFormat))
def test_a_lie_is_not_passed_on(tmp_path: Path, format_: ExportFormat) -> None:
    lie = write_founding_file(tmp_path / "lie.apr")
    with pytest.raises(RefusedError) as caught:
        export_checkpoint(lie, tmp_path / "out", format_)
    assert caught.value.invariant == "INV-INIT-ARCH-MATCH-001"
    assert not (tmp_path / "out").exists()


def test_a_lie_is_passed_on_only_with_a_recorded_reason(models: dict[str, Path], tmp_path: Path) -> None:
    lie = edit_config(copied(models["qwen2"], tmp_path / "lie"), architectures=["LlamaForCausalLM"], model_type="llama")
    allowed = {"INV-INIT-ARCH-MATCH-001": "a corpus of lies"}
    output = export_checkpoint(lie, tmp_path / "out", allowed_gates=allowed).output
    assert json.loads((output / "apr.json").read_text())["history"][0]["overrides"] == allowed


@pytest.mark.interop
def test_large_models_are_sharded(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    output = export_checkpoint(first, tmp_path / "hf", shard_bytes=100_000).output
    assert len(list(output.glob("model-*.safetensors"))) > 2
    assert facts(output) == facts(models["qwen2"])
    np.testing.assert_array_equal(logits(output), logits(models["qwen2"]))


def with_zero_byte_head(source: Path, target: Path) -> Path:
    """The tied model at `source` as files in circulation store it: a head with a shape and no bytes."""
    with open_checkpoint(source) as checkpoint:
        embedding = checkpoint.tensors["model.embed_tokens.weight"]
        head = TensorToWrite("lm_head.weight", embedding.dtype, embedding.shape, tuple, declared_size_bytes=0)
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != "apr_recorded"}
        write_apr2(target, metadata=metadata, tensors=[*map(copy_of, checkpoint.tensors.values()), head])
    return target


@pytest.mark.interop
def test_a_tied_head_of_zero_bytes_is_left_out_with_a_ledger_line(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2-tied"], tmp_path / "x.apr").output
    result = export_checkpoint(with_zero_byte_head(first, tmp_path / "zero.apr"), tmp_path / "hf")
    lines = {line.name: line for line in result.ledger if line.reason is not None}
    assert list(lines) == ["lm_head.weight"]
    assert lines["lm_head.weight"].fate == "dropped"
    assert "tied" in str(lines["lm_head.weight"].reason)
    np.testing.assert_array_equal(logits(result.output), logits(models["qwen2-tied"]))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_head_of_zero_bytes_in_an_untied_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    tied = edit_config(copied(models["qwen2-tied"], tmp_path / "untied"), tie_word_embeddings=False)
    allowed = {"INV-INIT-COVERAGE-001": "planted"}
    first = import_checkpoint(tied, tmp_path / "x.apr", allowed_gates=allowed).output
    with pytest.raises(RefusedError) as caught:
        export_checkpoint(with_zero_byte_head(first, tmp_path / "zero.apr"), tmp_path / "hf")
    assert caught.value.invariant == "INV-INIT-COVERAGE-001"
    assert "lm_head.weight" in str(caught.value) + json.dumps([dict(each) for each in caught.value.findings])


def test_training_state_of_the_container_is_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    with open_checkpoint(first) as checkpoint:
        state = tensor_from_bytes("__training__.embed_optimizer.m", DType.F32, (4,), bytes(16))
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != "apr_recorded"}
        tensors = [*map(copy_of, checkpoint.tensors.values()), state]
        write_apr2(tmp_path / "state.apr", metadata=metadata, tensors=tensors)
    result = export_checkpoint(tmp_path / "state.apr", tmp_path / "hf")
    assert [line.name for line in result.ledger if line.fate == "dropped"] == ["__training__.embed_optimizer.m"]
    assert facts(result.output)["digests"] == facts(models["qwen2"])["digests"]


def quantized_copy(source: Path, target: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The model at `source` with its matrices as APR_Q8, and the values these hold."""
    values: dict[str, np.ndarray] = {}
    with open_checkpoint(source) as checkpoint:
        tensors = [_quantized(entry, values) for entry in checkpoint.tensors.values()]
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != "apr_recorded"}
        write_apr2(target, metadata=metadata, tensors=tensors)
    return target, values


def _quantized(entry, values: dict[str, np.ndarray]) -> TensorToWrite:
    if len(entry.shape) != 2:
        return copy_of(entry)
    array = np.frombuffer(entry.read_bytes(), "<f4").reshape(entry.shape)
    scale = np.float32(np.abs(array).max() / 127)
    quants = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
    values[entry.name] = quants.astype(np.float32) * scale
    return tensor_from_bytes(entry.name, DType.APR_Q8, entry.shape, scale.tobytes() + quants.tobytes())


def test_quantised_tensors_are_refused_until_somebody_asks_for_floats(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    quantized, values = quantized_copy(first, tmp_path / "q8.apr")
    with pytest.raises(RefusedError, match="not turned into floats unasked") as caught:
        export_checkpoint(quantized, tmp_path / "hf")
    assert f"{len(values)} tensors of APR_Q8" in str(caught.value.found)
    assert "--dequantize" in str(caught.value.remedy)
    assert not (tmp_path / "hf").exists()
    with pytest.raises(UsageError):
        export_checkpoint(quantized, tmp_path / "hf", dequantize="int4")
    result = export_checkpoint(quantized, tmp_path / "hf", dequantize="float32")
    assert result.quantization == "float32"
    found = load_file(result.output / "model.safetensors")
    for name, wanted in values.items():
        np.testing.assert_array_equal(found[name], wanted)
    assert {line.name for line in result.ledger if line.fate == "dequantised"} == set(values)
    record = json.loads((result.output / "apr.json").read_text())
    assert record["history"][-1]["reason"] == "dequantised to float32"
    export_checkpoint(quantized, tmp_path / "half", dequantize="bfloat16")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_rounding_is_to_nearest_even_as_torch_rounds() -> None:
    import torch

    random = np.random.default_rng(0)
    values = np.concatenate(
        [random.normal(0, 10.0**power, 2000).astype(np.float32) for power in range(-8, 4)]
        + [np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875], np.float32)]
    )
    for dtype, torch_dtype in ((DType.BF16, torch.bfloat16), (DType.F16, torch.float16)):
        wanted = torch.from_numpy(values).to(torch_dtype).view(torch.int16).numpy()
        found = np.frombuffer(rounded_bytes(values, dtype, "t"), np.int16)
        is_number = ~np.isnan(values)
        np.testing.assert_array_equal(found[is_number], wanted[is_number])
    with pytest.raises(RefusedError, match="does not fit into F16"):
        rounded_bytes(np.array([70000.0], np.float32), DType.F16, "t")


def test_a_single_weights_file_says_what_it_is(models: dict[str, Path], tmp_path: Path) -> None:
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    stamp_file(first, StampChanges(license="MIT"), in_place=True)
    result = export_checkpoint(first, tmp_path / "x.safetensors", ExportFormat.SAFETENSORS)
    with open_checkpoint(result.output) as checkpoint:
        texts = {"format": "pt", "architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM"}
        assert dict(checkpoint.metadata) == texts | {"hf_model_type": "qwen2", "license": "MIT"}
    assert facts(result.output)["digests"] == facts(models["qwen2"])["digests"]


def test_the_command_answers_in_json_and_says_what_it_left_out(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = import_checkpoint(models["qwen2-tied"], tmp_path / "x.apr").output
    zero = with_zero_byte_head(first, tmp_path / "zero.apr")
    assert run(["export", str(zero), "--format", "hf", "-o", str(tmp_path / "hf"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "apr.export/1"
    assert (document["status"], document["format"], document["tensor_count"]) == ("success", "hf", 26)
    assert document["ledger"]["counts"] == {"copied": 26, "dropped": 1}
    assert run(["export", str(zero), "-o", str(tmp_path / "hf")]) == 5
    assert "exists already" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "missing"), "-o", str(tmp_path / "y")]) == 3


def test_open_checkpoints_are_closed_again(models: dict[str, Path], tmp_path: Path) -> None:
    import os

    before = len(os.listdir("/proc/self/fd"))
    first = import_checkpoint(models["qwen2"], tmp_path / "x.apr").output
    export_checkpoint(first, tmp_path / "hf")
    stamp_file(first, StampChanges(license="MIT"), in_place=True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert issubclass(Checkpoint, object)
