"""The examples run as they stand: on a sound model, and on one that has to be refused."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from tests.adapters import mutate, zero_outputs
from tests.tiny_models import relabel

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return int(str(ending.value.code))


@pytest.fixture(scope="module")
def mislabelled(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = shutil.copytree(qwen2, tmp_path_factory.mktemp("examples") / "mislabelled")
    return relabel(Path(copy), "llama", "LlamaForCausalLM")


ON_A_MODEL = {
    "verified_load.py": "loaded by transformers, proven afterwards: blake3:",
    "strict_from_pretrained.py": "Qwen2ForSequenceClassification: all but score.weight, lm_head.weight is proven",
    "trainer_callback.py": "the changed model took no step: [INV-INIT-RECEIPT-001]",
    "lightning_callback.py": "trained from blake3:",
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ON_A_MODEL)
def test_an_example_says_what_it_proved_and_refuses_a_lie(
    name: str, qwen2: Path, mislabelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_example(name, monkeypatch, qwen2) == 0
    assert ON_A_MODEL[name] in capsys.readouterr().out
    assert run_example(name, monkeypatch, mislabelled) == 5
    assert "[INV-INIT-ARCH-MATCH-001]" in capsys.readouterr().out


def test_the_example_of_a_module_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_example("own_module.py", monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "[INV-INIT-COVERAGE-001]" in printed
    assert "5 tensors filled and read back" in printed


def test_the_example_of_an_adapter(
    qwen2: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_example("adapter.py", monkeypatch, qwen2, adapter) == 0
    assert "8 adapter tensors are applied, active, and change the logits" in capsys.readouterr().out
    dead = mutate(adapter, tmp_path / "dead", zero_outputs)
    assert run_example("adapter.py", monkeypatch, qwen2, dead) == 5
    assert "4 of 8 adapter tensors are a zero `lora_B`" in capsys.readouterr().out


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests] == []
