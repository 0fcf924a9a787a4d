"""A tied model in a file that `safetensors.torch.save_model` wrote: the tie under its other name, on every road."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

import apr
import apr.hf
from apr.convert.exporting import export_checkpoint
from apr.convert.importing import import_checkpoint
from tests.library.conftest import refusing_ids
from tests.tiny_models import tiny_model

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def auto() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", tie_word_embeddings=True)


@pytest.fixture
def saved(model: Any, tmp_path: Path) -> Path:
    directory = tmp_path / "saved"
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(directory)
    save_model(model, str(directory / "model.safetensors"))
    stored = load_file(directory / "model.safetensors")
    assert HEAD in stored
    assert EMBEDDING not in stored
    return directory


def holds(loaded: Any, model: Any) -> bool:
    wanted = model.state_dict()
    found = loaded.state_dict()
    return wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_headers_and_bytes_are_accepted_and_the_ledger_names_the_tie(saved: Path) -> None:
    examination = apr.preflight(saved, deep=True)
    assert examination.is_accepted, examination.refusals
    assert examination.facts.plan is not None
    assert [(each.name, each.partner) for each in examination.facts.plan.ledger.tied] == [(HEAD, EMBEDDING)]
    assert EMBEDDING in examination.facts.plan.ledger.filled


def test_every_load_holds_the_file(saved: Path, model: Any) -> None:
    loaded, receipt = apr.load_verified(None, saved)
    assert holds(loaded, model)
    assert not receipt.problems
    theirs = auto().from_pretrained(saved)
    assert apr.verify_loaded(theirs, saved).weights_digest == receipt.weights_digest
    assert holds(apr.hf.from_pretrained(auto(), saved), model)
    filled, _ = apr.load_verified(tiny_model("llama", seed=5, tie_word_embeddings=True), saved)
    assert holds(filled, model)


def test_it_goes_through_an_apr_file_and_back(saved: Path, model: Any, tmp_path: Path) -> None:
    import_checkpoint(saved, tmp_path / "model.apr")
    assert holds(apr.load_verified(None, tmp_path / "model.apr")[0], model)
    export_checkpoint(tmp_path / "model.apr", tmp_path / "back")
    assert holds(apr.load_verified(None, tmp_path / "back")[0], model)
    assert holds(auto().from_pretrained(tmp_path / "back"), model)


def without_the_tie(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_an_untied_config_leaves_the_embedding_unfilled(saved: Path) -> None:
    without_the_tie(saved)
    assert "INV-INIT-COVERAGE-001" in {finding.id for finding in apr.preflight(saved).refusals}
    assert "INV-INIT-COVERAGE-001" in refusing_ids(lambda: apr.load_verified(None, saved))
    assert refusing_ids(lambda: apr.verify_loaded(auto().from_pretrained(saved), saved))
    assert refusing_ids(lambda: apr.hf.from_pretrained(auto(), saved))


@pytest.mark.planted_defect("INV-INIT-VALUES-001")
def test_two_other_names_of_one_tensor_have_to_hold_the_same_bytes(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    shared = state.pop("shared.weight")
    for change, refused in ((0.0, False), (1e-3, True)):
        state |= {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared + change}
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        examination = apr.preflight(tmp_path, deep=True, kind="seq2seq")
        assert ("INV-INIT-VALUES-001" in {each.id for each in examination.refusals}) is refused


@pytest.mark.planted_defect("INV-INIT-RECEIPT-001")
def test_a_resident_model_with_another_embedding_is_refused(saved: Path) -> None:
    theirs = auto().from_pretrained(saved)
    theirs.model.embed_tokens.weight.data[3, 5] += 1e-3
    assert "INV-INIT-RECEIPT-001" in refusing_ids(lambda: apr.verify_loaded(theirs, saved))
