"""The examples run as they stand, on a sound model and on a mislabelled one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.tiny_models import relabel, save_tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "guard_your_own_script.py"


def run_example(model: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), str(model)])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return int(str(ending.value.code))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "qwen2", "qwen2")


def test_sound_is_loaded_with_its_receipt_and_mislabelled_is_refused_with_the_next_command(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_example(qwen2, monkeypatch) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Qwen2ForCausalLM: ")
    assert "weights blake3:" in printed
    assert run_example(relabel(qwen2, "llama", "LlamaForCausalLM"), monkeypatch) == 5
    printed = capsys.readouterr().out
    assert "INV-INIT-ARCH-MATCH-001" in printed
    assert "next: apr stamp" in printed
