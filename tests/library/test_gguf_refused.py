"""GGUF files are examined and never loaded: every way into a model refuses them and says where to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import apr
from apr.errors import RefusedError
from tests.identity.gguf_models import HEADS, INNER, KV_HEADS, LAYERS, ROWS, WIDTH, metadata_of, model_of, write_gguf

WAY_OUT = "start from the model that the GGUF file was made from: its Hugging Face directory or .apr file"
NOT_LOADED = "the weights of a GGUF file are not loaded into a model"


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    model = model_of("qwen2")
    return write_gguf(tmp_path / "model.gguf", model.shapes, metadata_of(model))


def messages(error: RefusedError) -> list[tuple[str, Any]]:
    return [(finding["message"], finding["remedy"]) for finding in error.findings if finding["status"] == "refuse"]


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
@pytest.mark.parametrize("name", [None, "AutoModelForCausalLM", "Qwen2ForCausalLM"])
def test_a_verified_load_is_refused(gguf_file: Path, name: str | None) -> None:
    import transformers

    asked = None if name is None else getattr(transformers, name)
    with pytest.raises(RefusedError) as caught:
        apr.load_verified(asked, gguf_file)
    assert any(message.startswith(NOT_LOADED) and remedy == WAY_OUT for message, remedy in messages(caught.value))


def test_the_same_model_loaded_by_somebody_else_is_not_proven_by_it(gguf_file: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=ROWS,
    )
    with pytest.raises(RefusedError) as caught:
        apr.verify_loaded(Qwen2ForCausalLM(config), gguf_file)
    assert any(message.startswith(NOT_LOADED) and remedy == WAY_OUT for message, remedy in messages(caught.value))


def test_preflight_of_the_library_accepts_what_it_can_account_for(gguf_file: Path) -> None:
    examination = apr.preflight(gguf_file)
    assert examination.is_accepted
