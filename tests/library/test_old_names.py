"""Checkpoints whose names are older than their class: proven, as the zoo's own loader takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import apr
import apr.hf
from apr.convert.importing import import_checkpoint
from tests.library.conftest import refusing_ids
from tests.library.test_config_check import saved

RECEIPT = "INV-INIT-RECEIPT-001"
GPT2 = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}


def rename(path: Path, new_name: Callable[[str], str], more: dict[str, torch.Tensor] | None = None) -> None:
    state = {new_name(name): tensor for name, tensor in load_file(path / "model.safetensors").items()}
    save_file({**state, **(more or {})}, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("position", ["rotary", "absolute"])
def test_a_class_that_is_saved_with_old_norms_is_proven_on_every_way(tmp_path: Path, position: str) -> None:
    options = {"mask_token_id": 5, "pad_token_id": 1, "position_embedding_type": position}
    model_class = saved(tmp_path, "EsmForMaskedLM", options)
    assert any(name.endswith("LayerNorm.gamma") for name in load_file(tmp_path / "model.safetensors"))
    apr.verify_loaded(apr.hf.from_pretrained(model_class, tmp_path), tmp_path)
    model, receipt = apr.load_verified(None, tmp_path)
    assert apr.verify_loaded(model, tmp_path).weights_digest == receipt.weights_digest


def test_such_a_class_goes_into_an_apr_file_and_back(tmp_path: Path) -> None:
    model_class = saved(tmp_path / "esm", "EsmForMaskedLM", {"mask_token_id": 5, "pad_token_id": 1})
    import_checkpoint(tmp_path / "esm", tmp_path / "esm.apr")
    apr.verify_loaded(model_class.from_pretrained(tmp_path / "esm"), tmp_path / "esm.apr")
    assert apr.load_verified(None, tmp_path / "esm.apr")[1].tensors_written > 0


@pytest.mark.planted_defect(RECEIPT)
def test_published_bert_with_gamma_and_beta_is_proven(tmp_path: Path) -> None:
    model_class = saved(tmp_path, "BertForPreTraining", {})
    rename(
        tmp_path,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    )
    model: Any = apr.hf.from_pretrained(model_class, tmp_path)
    apr.verify_loaded(model, tmp_path)
    model.bert.embeddings.LayerNorm.reset_parameters()
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {RECEIPT}


@pytest.mark.planted_defect(RECEIPT)
def test_gpt2_as_it_was_published_is_proven(tmp_path: Path) -> None:
    """Without `transformer.` before the names, and with the causal masks that older versions saved."""
    model_class = saved(tmp_path, "GPT2LMHeadModel", GPT2)
    masks = {f"h.{layer}.attn.bias": torch.tril(torch.ones(1, 1, 64, 64)) for layer in range(2)}
    rename(tmp_path, lambda name: name.removeprefix("transformer."), masks)
    model: Any = apr.hf.from_pretrained(model_class, tmp_path)
    apr.verify_loaded(model, tmp_path)
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1
    assert refusing_ids(lambda: apr.verify_loaded(model, tmp_path)) == {RECEIPT}


def test_a_module_of_ones_own_may_call_its_norms_as_it_likes(tmp_path: Path) -> None:
    class Norm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.LayerNorm = torch.nn.ParameterDict({"gamma": torch.randn(4), "beta": torch.randn(4)})

    module = Norm()
    save_file(module.state_dict(), tmp_path / "own.safetensors")
    assert apr.verify_loaded(module, tmp_path / "own.safetensors").tensors_written == 2
