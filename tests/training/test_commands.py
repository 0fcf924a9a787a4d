"""`apr tokenize` and `apr pretrain` as commands: one document, the right exit code, texts a user can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apr.cli.main import run
from tests.training.conftest import TINY, VOCABULARY


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    code = run([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def scratch_words(shards: Path, tokenizer: Path, directory: Path, *more: object) -> list[object]:
    words: list[object] = ["pretrain", "--dataset", shards, "--tokenizer", tokenizer, "--run-dir", directory]
    words += ["--arch", "Qwen2ForCausalLM", "--device", "cpu", "--num-steps", 2, "--steps-per-epoch", 2]
    words += ["--batch-size", 2, "--seq-length", 16, "--val-windows", 4, "--warmup-steps", 1]
    for key, value in TINY.items():
        words += ["--set", f"{key}={value}"]
    return [*words, *more]


def test_the_three_commands_in_turn(source_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, trained = answer(
        capsys, "tokenize", "train", "--corpus", source_tree, "--vocab-size", VOCABULARY, "-o", tmp_path / "tokenizer"
    )
    assert (code, trained["schema"], trained["vocab_size"]) == (0, "apr.tokenize-train/1", VOCABULARY)
    words = ["tokenize", "encode-corpus", "--corpus", source_tree, "--tokenizer", tmp_path / "tokenizer"]
    words += ["-o", tmp_path / "tokens", "--validation-docs", 2]
    code, encoded = answer(capsys, *words)
    assert (code, encoded["schema"]) == (0, "apr.tokenize-encode/1")
    code, estimate = answer(capsys, *words, "--estimate-only")
    assert (code, estimate["schema"]) == (0, "apr.tokenize-estimate/1")
    code, document = answer(capsys, *scratch_words(tmp_path / "tokens", tmp_path / "tokenizer", tmp_path / "run"))
    assert (code, document["schema"], document["status"]) == (0, "apr.pretrain/1", "BUDGET_EXHAUSTED")
    upstream = {"detail", "final_val_loss", "epochs_completed", "steps_recorded", "val_loss_history"}
    assert upstream <= set(document)
    assert set(document["per_step_metrics"][0]) >= {
        *("step", "train_loss", "grad_norm", "lr", "tokens_per_sec", "gpu_util_pct", "wall_ms")
    }
    assert document == json.loads((tmp_path / "run" / "status.json").read_text())


def test_people_see_status_losses_and_the_next_command(
    shards: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*map(str, scratch_words(shards, tokenizer, tmp_path / "run"))]) == 0
    shown = capsys.readouterr()
    assert "BUDGET_EXHAUSTED: all 2 steps are done" in shown.out
    assert "loss at step 0" in shown.out
    assert "step 0: validation loss" in shown.err
    assert f"apr export {tmp_path / 'run' / 'ckpt' / 'epoch-000.apr'} --format hf" in shown.err


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--device", "cuda:7"], 5, "DEVICE_UNAVAILABLE"),
        (["--device", "gpu"], 2, "--device must be"),
        (["--synthetic"], 2, "no synthetic path"),
        (["--set", "hidden_size"], 2, "KEY=VALUE"),
        (["--allow-gate", "INV-INIT-LOSS-001"], 2, "reason"),
        (["--num-steps", "many"], 2, "--num-steps"),
        (["--init", "/nonexistent.apr"], 2, "different models"),
    ],
)
def test_mistakes_have_their_exit_code_and_leave_no_run_directory(
    more: list[str],
    code: int,
    words: str,
    shards: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*map(str, scratch_words(shards, tokenizer, tmp_path / "run", *more))]) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "run").exists()


def test_an_aborted_run_answers_with_its_document_and_exit_code_6(
    shards: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr.training import step

    monkeypatch.setattr(step, "_accumulate", lambda context, windows: windows.sum() * float("nan"))
    code, document = answer(capsys, *scratch_words(shards, tokenizer, tmp_path / "run"))
    assert (code, document["status"], document["final_val_loss"]) == (6, "ABORTED", None)
    assert "is not finite" in document["detail"]


def test_errors_of_a_corpus_name_file_and_line(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs.jsonl").write_text('{"content": "x"}\nnot json\n')
    code, document = answer(
        capsys,
        *("tokenize", "encode-corpus", "--corpus", tmp_path / "docs.jsonl"),
        *("--tokenizer", tokenizer, "-o", tmp_path / "out"),
    )
    assert (code, document["schema"]) == (4, "apr.error/1")
    assert document["error"]["where"].endswith("docs.jsonl:2")
