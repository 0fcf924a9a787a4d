"""Runs on disk as training writes them, with made-up numbers: nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apr.gates.finding import Finding, Status
from apr.training.metrics import EvaluationMetrics, StepMetrics
from apr.training.run_directory import RunDirectory

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202egnp.exe'
MakeRun = Callable[..., Path]


def run_document(**changes: Any) -> dict[str, Any]:
    """A `run.json` with the parts a report reads."""
    findings = [
        Finding("INV-INIT-ARCH-MATCH-001", Status.PASS, "the tensors show what is claimed"),
        Finding("INV-INIT-COVERAGE-001", Status.REFUSE, HOSTILE, "0 unused", "72 unused", "apr stamp x -o y"),
        Finding("INV-INIT-PROBE-001", Status.UNCHECKED, "the checkpoint records no probe"),
    ]
    return {
        "schema": "apr.run/1",
        "options": {"dataset": "tokens", "seed": 42},
        "settings": {"lr_max": 0.001},
        "optimizer": {"name": "AdamW"},
        "identity": {"hf_architecture": "Qwen2ForCausalLM"},
        "config": {"vocab_size": 600, "note": HOSTILE},
        "parent": {
            "path": "start.apr",
            "receipt": {
                "source": "start.apr",
                "bytes_read": 123_456,
                "tensors_written": 1,
                "weights_digest": "blake3:aa",
                "tensor_digests": {f"model{HOSTILE}.weight": "beef" * 16},
            },
        },
        "initial_weights_digest": "blake3:aa",
        "data": {"training_windows": 100, "validation_origin": "4 windows", "validation_set_hash": "blake3:bb"},
        "device": {"name": "cpu", "reason": "asked for", "hardware": "a processor"},
        "dtype": "float32",
        "versions": {"apr": "0.1.0"},
        "findings": [finding.to_json() for finding in findings],
        **changes,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("name", steps=12)` writes a run with that many updates and three evaluations, and gives its place."""

    def make(
        name: str = "run", *, steps: int = 12, is_finished: bool = True, first_loss: float = 6.5, **changes: Any
    ) -> Path:
        path = tmp_path / name
        directory = RunDirectory(path, run_document(**changes))
        directory.log(EvaluationMetrics(0, None, first_loss, 512, "blake3:bb", 3.0).to_json())
        for step in range(1, steps + 1):
            loss = first_loss - step / steps
            metrics = StepMetrics(step, 0, loss, 1.0 + step % 3, 1e-3 / step, 2000.0 + step, None, 8.0, 256 * step)
            directory.log(metrics.to_json())
            if step in (steps // 2, steps):
                epoch = 0 if step < steps else 1
                directory.log(EvaluationMetrics(step, epoch, loss + 0.25, 512, "blake3:bb", 3.0).to_json())
                digest = f"blake3:epoch{epoch}"
                metadata = {"epoch": epoch, "step": step, "train_loss": loss, "val_loss": loss + 0.25}
                metadata |= {"grad_norm_max": 3.0, "wall_seconds": 61.0, "weights_digest": digest}
                directory.write_metadata(epoch, metadata)
        if is_finished:
            directory.write_status(
                {
                    "schema": "apr.pretrain/1",
                    "status": "BUDGET_EXHAUSTED",
                    "detail": "all steps are done",
                    "final_val_loss": first_loss - 0.75,
                    "best_val_loss": first_loss - 0.75,
                }
            )
        directory.close()
        return path

    return make
