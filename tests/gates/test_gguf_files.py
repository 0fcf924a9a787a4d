"""GGUF files on the road, by the command line: identified, accounted for both ways, repaired, and never half loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from tests.identity.gguf_models import MODELS, Model, metadata_of, model_of, name_of, write_gguf

Preflight = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def preflight(capsys: pytest.CaptureFixture[str]) -> Preflight:
    """`preflight(path, *options)` gives exit code and document."""

    def call(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run(["preflight", str(path), "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return call


def refused(document: dict[str, Any]) -> dict[str, str]:
    """Id to message of every refusal; of one id the first."""
    found: dict[str, str] = {}
    for finding in document["findings"]:
        if finding["status"] == "refuse":
            found.setdefault(finding["id"], finding["message"])
    return found


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_a_healthy_file_is_accepted_with_its_ledger(model: Model, tmp_path: Path, preflight: Preflight) -> None:
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    is_encoder = model.slug == "bert"
    code, document = preflight(path, "--kind", "decoder")
    assert (code, refused(document).keys()) == ((5, {"FALSIFY-APR-PRETRAIN-ARCH-007"}) if is_encoder else (0, set()))
    code, document = preflight(path, "--deep")
    assert (code, refused(document).keys()) == (0, set())
    assert document["verdict"] in ("match", "ambiguous")
    assert document["claimed"]["architecture"] == {
        "gguf_architecture": model.slug,
        "hf_architecture": None,
        "hf_model_type": None,
        "kind": "encoder" if is_encoder else "decoder",
    }
    ledger = document["ledger"]
    assert (ledger["filled"], ledger["unfilled"], ledger["unused"]) == (len(model.shapes), [], [])
    has_no_head_of_its_own = model.slug in ("bert", "gemma", "gemma2")
    tied = [] if has_no_head_of_its_own or "output.weight" in model.shapes else ["output.weight"]
    assert [each["name"] for each in ledger["tied"]] == tied
    said = [finding for finding in document["findings"] if finding["status"] == "unchecked"]
    assert any("a run does not start from this file" in finding["message"] for finding in said)


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_false_label_is_refused_and_the_recipe_repairs_it(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "lie.gguf", model.shapes, metadata_of(model, "llama"))
    code, document = preflight(path)
    message = refused(document)["INV-INIT-ARCH-MATCH-001"]
    assert code == 5
    assert message.startswith("the stamps say llama (GGUF), the tensors show qwen2 (GGUF)")
    assert "6 unused: blk.{0–1}.attn_{q,k,v}.bias (6)" in message
    finding = next(each for each in document["findings"] if each["id"] == "INV-INIT-ARCH-MATCH-001")
    repaired = tmp_path / "lie.qwen2.gguf"
    stamp, again = finding["remedy"].splitlines()
    assert stamp == f"apr stamp {path} --architecture qwen2 -o {repaired}"
    assert again == f"apr preflight {repaired}"
    assert run(stamp.split()[1:]) == 0
    assert preflight(repaired)[0] == 0


def test_a_label_that_the_tensors_contradict_is_not_stamped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    assert run(["stamp", str(path), "--architecture", "llama", "-o", str(tmp_path / "out.gguf")]) == 5
    said = capsys.readouterr().err
    assert "INV-STAMP-TRUTH-001" in said
    assert "the stamps would say llama (GGUF), but the tensors show qwen2 (GGUF)" in said
    assert "--hf-architecture" not in said


def test_what_the_tensors_leave_open_is_named_with_the_flag_that_settles_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = model_of("qwen2"), tmp_path / "out.gguf"
    path = write_gguf(tmp_path / "lie.gguf", model.shapes, metadata_of(model, "llama"))
    assert run(["stamp", str(path), "--auto", "-o", str(out)]) == 5
    said = capsys.readouterr().err
    assert "the tensors do not decide the model type: qwen2, dream, llada, qwen2vl" in said
    assert "add --architecture NAME for the one it is" in said
    assert run(["stamp", str(path), "--auto", "--architecture", "qwen2", "-o", str(out)]) == 0
    mamba = model_of("mamba")
    path = write_gguf(tmp_path / "mamba.gguf", mamba.shapes, metadata_of(mamba, "llama"))
    assert run(["stamp", str(path), "--auto", "-o", str(tmp_path / "repaired.gguf")]) == 0
    assert run(["preflight", str(tmp_path / "repaired.gguf")]) == 0


def test_an_architecture_that_only_gguf_has_can_be_stamped(tmp_path: Path) -> None:
    model = model_of("llama")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model, "llama"))
    assert run(["stamp", str(path), "--architecture", "xverse", "-o", str(tmp_path / "out.gguf")]) == 0


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_a_tensor_that_is_missing_or_too_many_is_refused_by_name(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen3")
    cut = {name: shape for name, shape in model.shapes.items() if name != "blk.1.attn_q_norm.weight"}
    code, document = preflight(write_gguf(tmp_path / "cut.gguf", cut, metadata_of(model)))
    assert code == 5
    assert "1 model tensors would not be filled: blk.1.attn_q_norm.weight" in refused(document)["INV-INIT-COVERAGE-001"]
    more = {**model.shapes, "blk.1.attn_sinks.weight": (4,)}
    code, document = preflight(write_gguf(tmp_path / "more.gguf", more, metadata_of(model)))
    assert code == 5
    assert "1 file tensors would not be used: blk.1.attn_sinks.weight" in refused(document)["INV-INIT-COVERAGE-001"]


def test_a_tensor_can_be_allowed_by_name_with_a_reason(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen3")
    more = {**model.shapes, "blk.1.attn_sinks.weight": (4,)}
    path = write_gguf(tmp_path / "more.gguf", more, metadata_of(model))
    assert preflight(path, "--allow", "blk.1.attn_sinks.weight=an experiment of ours")[0] == 0


@pytest.mark.planted_defect("INV-INIT-SHAPE-001")
def test_keys_that_give_other_shapes_are_refused_with_the_dimension(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    metadata = {**metadata_of(model), "qwen2.feed_forward_length": 88}
    code, document = preflight(write_gguf(tmp_path / "wrong.gguf", model.shapes, metadata))
    messages = refused(document)
    assert code == 5
    assert "6 tensors have another shape" in messages["INV-INIT-SHAPE-001"]
    assert "the keys say intermediate_size 88, the tensors show 80" in messages["INV-INIT-CONFIG-001"]


def test_a_wrong_count_of_layers_is_no_reason_to_stamp_another_architecture(
    tmp_path: Path, preflight: Preflight
) -> None:
    model = model_of("qwen2")
    metadata = {**metadata_of(model), "qwen2.block_count": 3}
    code, document = preflight(write_gguf(tmp_path / "wrong.gguf", model.shapes, metadata))
    assert code == 5
    coverage = next(each for each in document["findings"] if each["id"] == "INV-INIT-COVERAGE-001" and each["remedy"])
    assert "12 unfilled" in coverage["found"]
    assert coverage["remedy"].startswith("correct the dimensions the checkpoint records")


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.parametrize("key", ["rope.freq_base", "attention.layer_norm_rms_epsilon", "attention.head_count"])
def test_a_fact_nobody_recorded_is_refused_and_can_be_stamped(key: str, tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    metadata = {name: value for name, value in metadata_of(model).items() if name != f"qwen2.{key}"}
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata)
    code, document = preflight(path)
    assert code == 5
    assert refused(document) == {
        "INV-INIT-CONFIG-001": f"qwen2.{key} is recorded nowhere, and no tensor shows it",
    }
    value = metadata_of(model)[f"qwen2.{key}"]
    out = tmp_path / "out.gguf"
    assert run(["stamp", str(path), "--set", f"qwen2.{key}={json.dumps(value)}", "-o", str(out)]) == 0
    assert preflight(out)[0] == 0


def test_keys_left_behind_under_another_architecture_are_refused(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("gemma")
    metadata = {**metadata_of(model), "general.architecture": "llama"}
    code, document = preflight(write_gguf(tmp_path / "model.gguf", model.shapes, metadata))
    assert code == 5
    assert "the keys are written for gemma (gemma.block_count)" in refused(document)["INV-INIT-CONFIG-001"]


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
@pytest.mark.parametrize("count", [5_000, 99_999, (1 << 32) - 1])
def test_a_hostile_count_of_layers_is_refused_before_names_are_made(
    count: int, tmp_path: Path, preflight: Preflight
) -> None:
    model = model_of("qwen2")
    metadata = {**metadata_of(model), "qwen2.block_count": count}
    code, document = preflight(write_gguf(tmp_path / "model.gguf", model.shapes, metadata))
    assert code == 5
    message = refused(document)["FALSIFY-APR-PRETRAIN-INIT-005"]
    assert "the keys ask for more layers than the file can explain" in message


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-INIT-005")
def test_a_key_that_no_model_can_compute_with_is_refused(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    norm, base = "attention.layer_norm_rms_epsilon", "rope.freq_base"
    rows = ("embedding_length", 64.5), (base, math.nan), (base, True), (base, 0.0), (norm, -1e-6), (norm, math.inf)
    for key, value in rows:
        metadata = {**metadata_of(model), f"qwen2.{key}": value}
        code, document = preflight(write_gguf(tmp_path / f"{key}-{value}.gguf", model.shapes, metadata))
        assert code == 5
        message = refused(document)["FALSIFY-APR-PRETRAIN-INIT-005"]
        assert f"qwen2.{key} cannot be used" in message


def test_a_norm_that_divides_by_nothing_but_its_root_and_a_base_that_nothing_rotates_by_are_let_through(
    tmp_path: Path, preflight: Preflight
) -> None:
    for model_type, key in (("qwen2", "qwen2.attention.layer_norm_rms_epsilon"), ("gpt2", "gpt2.rope.freq_base")):
        model = model_of(model_type)
        metadata = {**metadata_of(model), key: 0.0}
        code, document = preflight(write_gguf(tmp_path / f"{model_type}.gguf", model.shapes, metadata))
        assert code == 0, document["findings"]


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-009")
def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model), token_count=120)
    code, document = preflight(path)
    assert code == 5
    assert {"FALSIFY-APR-PRETRAIN-ARCH-009", "INV-INIT-CONFIG-001"} <= refused(document).keys()


@pytest.mark.planted_defect("INV-FILE-INTEGRITY-001")
def test_a_file_cut_short_is_refused(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    path.write_bytes(path.read_bytes()[:-4096])
    code, document = preflight(path)
    assert code == 5
    assert "INV-FILE-INTEGRITY-001" in refused(document)


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_values_are_judged_by_role_and_gemma_s_gains_around_one_are_healthy(
    tmp_path: Path, preflight: Preflight
) -> None:
    import numpy as np
    from gguf import GGUFReader

    model = model_of("gemma")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    assert preflight(path, "--deep")[0] == 0
    reader = GGUFReader(path, "r+")
    next(each for each in reader.tensors if each.name == "blk.0.ffn_up.weight").data[:] = np.float32(0)
    reader.data.flush()
    code, document = preflight(path, "--deep")
    assert code == 5
    assert "are zero everywhere" in refused(document)["INV-INIT-VALUES-001"]


def test_what_if_it_were_loaded_as_a_hugging_face_class(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    assert preflight(path, "--as", "Qwen2ForCausalLM")[0] == 0
    code, document = preflight(path, "--as", "Phi3ForCausalLM")
    assert code == 5
    assert "the tensors show qwen2 (GGUF)" in refused(document)["INV-INIT-ARCH-MATCH-001"]


def test_loading_is_refused_plainly(tmp_path: Path, preflight: Preflight) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    code, document = preflight(path, "--load")
    assert code == 5
    refusal = next(each for each in document["findings"] if each["status"] == "refuse")
    assert refusal["message"].startswith("the weights of a GGUF file are not loaded into a model")
    assert refusal["found"].startswith("a GGUF file of qwen2; in Hugging Face's names: Qwen2ForCausalLM")
    assert refusal["remedy"].startswith("start from the model that the GGUF file was made from")


def test_inspect_names_architectures_that_have_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of("qwen2")
    path = write_gguf(tmp_path / "lie.gguf", model.shapes, metadata_of(model, "llama"))
    assert run(["inspect", str(path), "--quality"]) == 0
    said = capsys.readouterr().out
    assert "contradiction: the tensors are qwen2, dream, llada, qwen2vl" in said
    assert "capped at 40" in said
    assert run(["inspect", str(path), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert verdict["claimed"] == {"class_name": None, "model_type": "llama", "kind": "decoder"}
    assert verdict["candidates"][0]["model_type"] == "qwen2"


def test_lint_names_the_keys_that_are_missing_or_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of("qwen2")
    honest = write_gguf(tmp_path / "honest.gguf", model.shapes, metadata_of(model))
    assert run(["lint", str(honest)]) == 0
    assert "Identity" not in capsys.readouterr().out
    metadata = {**metadata_of(model), "qwen2.block_count": 3}
    del metadata["qwen2.rope.freq_base"]
    wrong = write_gguf(tmp_path / "wrong.gguf", model.shapes, metadata)
    assert run(["lint", str(wrong)]) == 5
    said = capsys.readouterr().out
    assert "the keys say num_hidden_layers 3, the tensors show 2" in said
    assert f"apr stamp {wrong} --set qwen2.rope.freq_base=VALUE --in-place" in said
