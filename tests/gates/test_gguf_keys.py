"""Keys of GGUF files that no model can be computed with: refused, and repaired by the line that is printed."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from apr.cli.main import run
from tests.identity.gguf_models import MODELS, ROWS, Model, metadata_of, model_of, name_of, write_gguf

CONFIG = "INV-INIT-CONFIG-001"
FITS = "FALSIFY-APR-PRETRAIN-ARCH-009"
KIND = "FALSIFY-APR-PRETRAIN-ARCH-007"
Preflight = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def preflight(capsys: pytest.CaptureFixture[str]) -> Preflight:
    """`preflight(path, *options)` gives the exit code and every finding."""

    def call(path: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        code = run(["preflight", str(path), "--json", *options])
        return code, json.loads(capsys.readouterr().out)["findings"]

    return call


def refusals(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in findings if each["status"] == "refuse"]


def with_keys(
    path: Path, model: Model, keys: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, absent: str | None = None
) -> Path:
    """The model with further keys as they stand in the file: `slug.`, as `~.` at their beginning, is filled in."""
    write = GGUFWriter.add_tokenizer_model

    def add_all(writer: GGUFWriter, name: str) -> None:
        write(writer, name)
        for key, value in keys.items():
            full = key.replace("~", model.slug, 1)
            if isinstance(value, str):
                writer.add_string(full, value)
            elif isinstance(value, list):
                writer.add_array(full, value)
            elif isinstance(value, bool):
                writer.add_bool(full, value)
            else:
                (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(full, value)

    metadata = metadata_of(model)
    for key in (*keys, absent or ""):
        metadata.pop(key.replace("~", model.slug, 1), None)
    with monkeypatch.context() as patch:
        patch.setattr(GGUFWriter, "add_tokenizer_model", add_all)
        return write_gguf(path, model.shapes, metadata)


PLANTED: tuple[tuple[str, dict[str, Any], str, str | None], ...] = (
    # model, keys, what is said, and the value that the placeholder of the remedy stands for; None: no stamp repairs it.
    ("qwen2", {"~.rope.scaling.attn_factor": math.nan}, "qwen2.rope.scaling.attn_factor is no number: NaN", "1.0"),
    ("gemma3", {"~.sparsity": [0.5, math.nan]}, "gemma3.sparsity is no number: NaN", None),
    ("qwen2", {"~.rope.scaling.factor": math.nan}, "qwen2.rope.scaling.factor is no number: NaN", "2.0"),
    ("phi3", {"~.rope.scaling.factor": -2.0}, "phi3.rope.scaling.factor is no factor", "2.0"),
    ("phi3", {"~.rope.scaling.factor": math.inf}, "phi3.rope.scaling.factor is no factor", "2.0"),
    ("llama", {"~.rope.scaling.type": "yarn", "~.rope.scaling.factor": 0.0}, "llama.rope.scaling.factor is no", "2.0"),
    ("qwen2", {"~.rope.scaling.factor": "2"}, "qwen2.rope.scaling.factor is no number: '2'", None),
    ("qwen2", {"~.rope.scaling.type": "banana"}, "qwen2.rope.scaling.type names no way of scaling", "linear"),
    ("qwen2", {"~.rope.scaling.type": 3}, "qwen2.rope.scaling.type names no way of scaling", None),
    ("qwen2", {"~.rope.dimension_count": 64}, "qwen2.rope.dimension_count counts dimensions", "16"),
    ("phi3", {"~.rope.dimension_count": 15}, "phi3.rope.dimension_count counts dimensions", "8"),
    ("llama", {"~.rope.dimension_count": 8}, "llama.rope.dimension_count counts dimensions", "16"),
    ("gemma", {"~.rope.dimension_count": 18}, "gemma.rope.dimension_count counts dimensions", "16"),
    ("qwen2", {"~.context_length": 0}, "qwen2.context_length leaves no room", "48"),
    ("qwen2", {"~.logit_scale": math.nan}, "qwen2.logit_scale is no number", "1.0"),
    ("qwen2", {"~.logit_scale": 0.0}, "qwen2.logit_scale is nothing to scale logits by", "1.0"),
    ("llama", {"~.expert_count": 8}, "llama.expert_count counts experts, and no tensor is one", ""),
    ("phi3", {"~.expert_count": 8, "~.expert_used_count": 2}, "phi3.expert_count counts experts", ""),
    ("llama", {"~.expert_used_count": 2}, "llama.expert_used_count is no number of experts", "0"),
    ("qwen3moe", {"~.expert_used_count": 0}, "qwen3moe.expert_used_count is no number of experts", "2"),
    ("qwen3moe", {"~.expert_used_count": 7}, "qwen3moe.expert_used_count is no number of experts", "2"),
    ("llama", {"general.type": "adapter"}, "general.type says that the file is something else than a model", ""),
    ("llama", {"general.type": 1}, "general.type says that the file is something else than a model", None),
)


@pytest.mark.planted_defect(CONFIG)
@pytest.mark.parametrize(("slug", "keys", "said", "value"), PLANTED, ids=[f"{row[0]}-{row[2][:40]}" for row in PLANTED])
def test_a_key_that_no_model_can_be_computed_with_is_refused_and_the_printed_line_repairs_it(
    slug: str,
    keys: dict[str, Any],
    said: str,
    value: str | None,
    tmp_path: Path,
    preflight: Preflight,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = with_keys(tmp_path / "model.gguf", model_of(slug), keys, monkeypatch)
    code, findings = preflight(path)
    assert code == 5
    (finding,) = refusals(findings)
    assert finding["id"] == CONFIG
    assert said in finding["message"]
    if value is None:
        assert finding["remedy"].startswith("convert the model again")
        return
    line = finding["remedy"].split(", with the value")[0].replace("VALUE", value).replace("TYPE", value)
    assert run(shlex.split(line)[1:]) == 0
    code, findings = preflight(path)
    assert code == 0, refusals(findings)


def test_experts_whose_number_for_a_token_is_absent_are_refused(
    tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_keys(tmp_path / "x.gguf", model_of("qwen3moe"), {}, monkeypatch, absent="~.expert_used_count")
    code, findings = preflight(path)
    assert (code, [each["found"] for each in refusals(findings)]) == (5, ["absent"])


HEALTHY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("qwen2", {"general.type": "model"}),
    ("llama", {"~.rope.dimension_count": 16, "~.rope.scaling.type": "linear", "~.rope.scaling.factor": 4.0}),
    ("qwen2", {"~.rope.scaling.type": "none", "~.rope.scaling.factor": 0.0}),
    ("qwen2", {"~.rope.scaling.type": "none", "~.rope.scaling.factor": -1.0}),
    ("qwen2", {"~.rope.scaling.factor": 0.0}),
    ("phi3", {"~.rope.dimension_count": 8, "~.rope.scaling.type": "longrope", "~.rope.scaling.attn_factor": 1.19}),
    ("qwen2", {"~.rope.scaling.type": "yarn", "~.rope.scaling.factor": 4, "~.rope.scaling.yarn_ext_factor": -1.0}),
    ("gemma3", {"~.activation_sparsity_scale": [1.6, -math.inf]}),
    ("gemma", {"~.rope.dimension_count": 16}),
    ("gpt2", {"~.rope.dimension_count": 77}),
    ("mamba", {"~.rope.dimension_count": 0}),
    ("qwen2", {"~.logit_scale": 0.0625}),
    ("qwen2", {"~.expert_count": 0, "~.expert_used_count": 0}),
    ("phi3", {"~.expert_count": 1, "~.expert_used_count": 1}),
    ("phi3", {"~.expert_count": 8, "~.expert_used_count": 2, "~.leading_dense_block_count": 2}),
    ("qwen3moe", {"~.expert_used_count": 6}),
    ("qwen2", {"~.attention.causal": True}),
)


@pytest.mark.parametrize(("slug", "keys"), HEALTHY, ids=[f"{row[0]}-{'-'.join(row[1])}" for row in HEALTHY])
def test_keys_that_look_odd_and_are_meant_so_are_let_through(
    slug: str, keys: dict[str, Any], tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_keys(tmp_path / "model.gguf", model_of(slug), keys, monkeypatch)
    code, findings = preflight(path, "--kind", "decoder")
    assert code == 0, refusals(findings)


@pytest.mark.planted_defect(FITS)
@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_text_that_begins_or_ends_with_a_token_without_embedding_is_refused_and_can_be_stamped(
    name: str, tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"tokenizer.ggml.{name}_token_id"
    path = with_keys(tmp_path / "model.gguf", model_of("qwen2"), {key: ROWS}, monkeypatch)
    code, findings = preflight(path)
    (finding,) = refusals(findings)
    assert (code, finding["id"]) == (5, FITS)
    assert key in finding["message"]
    line = finding["remedy"].split(", with the id")[0].replace("=ID", "=0")
    assert run(shlex.split(line)[1:]) == 0
    assert preflight(path)[0] == 0


def test_other_tokens_without_embedding_are_told_and_no_token_is_none(
    tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    padding = "tokenizer.ggml.padding_token_id"
    path = with_keys(tmp_path / "pad.gguf", model_of("qwen2"), {padding: ROWS}, monkeypatch)
    code, findings = preflight(path)
    assert code == 0
    assert [each["message"] for each in findings if each["id"] == FITS and each["status"] == "unchecked"] == [
        f"the key {padding} names a token that the model has no embedding for, {ROWS} of {ROWS}; llama.cpp passes over "
        "it and takes its own"
    ]
    none = {f"tokenizer.ggml.{name}_token_id": 0xFFFF_FFFF for name in ("bos", "eos", "padding")}
    code, findings = preflight(with_keys(tmp_path / "none.gguf", model_of("qwen2"), none, monkeypatch))
    assert code == 0
    assert [each["status"] for each in findings if each["id"] == FITS] == ["pass"]


@pytest.mark.planted_defect(KIND)
def test_a_decoder_whose_tokens_see_those_that_follow_starts_no_decoder_run(
    tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_keys(tmp_path / "model.gguf", model_of("qwen2"), {"~.attention.causal": False}, monkeypatch)
    code, findings = preflight(path)
    (said,) = [each for each in findings if each["id"] == KIND]
    assert (code, said["status"]) == (0, "unchecked")
    assert "qwen2.attention.causal = false" in said["message"]
    code, findings = preflight(path, "--kind", "decoder")
    (finding,) = refusals(findings)
    assert (code, finding["id"]) == (5, KIND)
    line = finding["remedy"].split("if the value is wrong: ")[1]
    assert run(shlex.split(line)[1:]) == 0
    assert preflight(path, "--kind", "decoder")[0] == 0


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_models_as_their_converters_write_them_have_no_fault(model: Model, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))
    assert run(["lint", str(path)]) == 0


def test_lint_names_the_fault_with_the_line_that_repairs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_keys(tmp_path / "model.gguf", model_of("qwen2"), {"~.rope.scaling.factor": -1.0}, monkeypatch)
    assert run(["lint", str(path)]) == 5
    said = capsys.readouterr().out
    assert "the key qwen2.rope.scaling.factor is no factor that positions can be scaled by" in said
    assert f"apr stamp {path} --set qwen2.rope.scaling.factor=VALUE --in-place" in said
