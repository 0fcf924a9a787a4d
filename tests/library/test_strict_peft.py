"""PEFT's `from_pretrained` is as strict as that of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import apr
import apr.hf
from apr.errors import UsageError
from tests.adapters import compiled, mutate, save_adapter
from tests.library.conftest import refusing_ids

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'apr[peft]')")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

COVERAGE = "INV-INIT-COVERAGE-001"


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


@pytest.mark.planted_defect("INV-INIT-COVERAGE-001")
def test_peft_is_strict_within_a_strict_block(qwen2: Path, adapter: Path, tmp_path: Path) -> None:
    lost = mutate(adapter, tmp_path / "lost", compiled)
    original = peft.PeftModel.__dict__["from_pretrained"]
    with apr.hf.strict():
        base = load(qwen2)
        for load_it in (peft.PeftModel.from_pretrained, peft.PeftModelForCausalLM.from_pretrained):
            assert COVERAGE in refusing_ids(lambda load_it=load_it: load_it(load(qwen2), lost))
        assert COVERAGE in refusing_ids(lambda: peft.PeftModel.from_pretrained(load(qwen2), model_id=str(lost)))
        assert type(peft.PeftModel.from_pretrained(base, adapter)).__name__ == "PeftModelForCausalLM"
        assert type(peft.AutoPeftModelForCausalLM.from_pretrained(adapter)).__name__ == "PeftModelForCausalLM"
        assert COVERAGE in refusing_ids(lambda: peft.AutoPeftModelForCausalLM.from_pretrained(lost))
        named = peft.PeftModel.from_pretrained(load(qwen2), adapter, "style")
        assert list(named.peft_config) == ["style"]
        mixed = peft.PeftMixedModel.from_pretrained(load(qwen2), str(adapter))
        assert type(mixed).__name__ == "PeftMixedModel"
    assert peft.PeftModel.__dict__["from_pretrained"] is original
    assert COVERAGE in refusing_ids(lambda: apr.hf.from_pretrained(peft.PeftModel, load(qwen2), lost))
    loaded = apr.hf.from_pretrained(peft.PeftModel, load(qwen2), adapter, is_trainable=True)
    assert any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_model_in_place_of_a_path_is_a_wrong_call(qwen2: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(UsageError) as caught:
        apr.hf.from_pretrained(AutoModelForCausalLM, load(qwen2))
    assert "names no source" in str(caught.value)


def test_an_adapter_over_a_base_in_bfloat16_is_strictly_loaded(tied_bfloat16: Path, tmp_path: Path) -> None:
    saved = save_adapter(tied_bfloat16, tmp_path / "saved")
    with apr.hf.strict():
        model = peft.PeftModel.from_pretrained(load(tied_bfloat16), saved)
    assert apr.verify_loaded(model, tied_bfloat16, adapter=saved).tensors_written == 26
