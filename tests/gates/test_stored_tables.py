"""Rotary tables that a file still holds, as older versions of transformers saved them: witnesses of the base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from apr.gates.finding import Finding, Status
from apr.gates.road import deepen, examine
from tests.tiny_models import save_tiny

PAIRS = 8


def with_tables(path: Path, base: float, dtype: torch.dtype = torch.float32, factor: float = 1.0) -> Path:
    table = (factor / base ** (torch.arange(0, 2 * PAIRS, 2).float() / (2 * PAIRS))).to(dtype)
    file = path / "model.safetensors"
    tables = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": table.clone() for layer in range(2)}
    save_file({**load_file(file), **tables}, file, {"format": "pt"})
    return path


def with_base(path: Path, **rope: object) -> Path:
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"] |= rope
    (path / "config.json").write_text(json.dumps(config))
    return path


def refusals(path: Path) -> list[Finding]:
    return [finding for finding in deepen(examine(path)).findings if finding.status is Status.REFUSE]


@pytest.mark.planted_defect("INV-INIT-CONFIG-001")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("made_with", "recorded"), [(10000.0, 1e6), (1e6, 10000.0), (10000.0, 11000.0)])
def test_a_table_made_with_another_base_is_a_witness_against_the_config(
    tmp_path: Path, dtype: torch.dtype, made_with: float, recorded: float
) -> None:
    path = with_tables(with_base(save_tiny(tmp_path / "model", "llama"), rope_theta=recorded), made_with, dtype)
    (finding,) = refusals(path)
    assert finding.id == "INV-INIT-CONFIG-001"
    assert "2 rotary tables in the file were made with another base" in finding.message
    assert f"a base of {recorded:g}, as the config says" == finding.expected
    assert "--set rope_theta=VALUE" in str(finding.remedy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("base", [10000.0, 500000.0, 1e6])
def test_a_table_made_with_the_recorded_base_is_left_aside(tmp_path: Path, dtype: torch.dtype, base: float) -> None:
    path = with_tables(with_base(save_tiny(tmp_path / "model", "llama"), rope_theta=base), base, dtype)
    assert refusals(path) == []


def test_a_table_of_another_form_says_nothing(tmp_path: Path) -> None:
    scaled = with_base(save_tiny(tmp_path / "model", "llama"), rope_type="linear", factor=4.0)
    assert refusals(with_tables(scaled, 5e5)) == []
    assert refusals(with_tables(save_tiny(tmp_path / "other", "llama"), 10000.0, factor=0.25)) == []
