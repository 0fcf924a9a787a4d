"""Whole runs: refused before anything exists, measured at true step 0, saved whole and checked, resumed exactly."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from apr.errors import (
    GuardStopError,
    InputOutputError,
    InterruptedResumableError,
    InterruptedRunError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from apr.formats.registry import open_checkpoint
from apr.gates.road import RoadOptions, deepen, examine
from apr.training import checkpoints, run, step
from apr.training.guards import RunStatus
from apr.training.metrics import EvaluationMetrics
from apr.training.options import PretrainOptions, resolve_settings
from apr.training.result import RunResult
from apr.training.run import pretrain
from apr.training.schedule import Mode
from tests.tiny_models import save_tiny
from tests.training.conftest import TINY, VOCABULARY, scratch_options


def metrics_of(directory: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def resume_options(init: Path, shards: Path, tokenizer: Path, directory: Path, **changes: object) -> PretrainOptions:
    values: dict[str, object] = {
        "architecture": None,
        "config_changes": {},
        "init": init,
        "force_under_provisioned": True,
        **changes,
    }
    return scratch_options(shards, tokenizer, directory, **values)


@pytest.mark.falsifies("FALSIFY-TRAIN-001")
def test_every_step_logs_real_finite_metrics(scratch_run: RunResult) -> None:
    steps = metrics_of(scratch_run.run_directory, "step")
    assert [each["step"] for each in steps] == [1, 2, 3, 4, 5, 6]
    for each in steps:
        assert set(each) - {"kind"} == {
            *("step", "epoch", "train_loss", "grad_norm", "lr", "tokens_per_sec", "gpu_util_pct", "wall_ms"),
            "tokens_seen",
        }
        assert all(isinstance(each[key], float) and each[key] > 0 for key in ("train_loss", "grad_norm", "lr"))
        assert each["tokens_per_sec"] == pytest.approx(4 * 32 / (each["wall_ms"] / 1000))
    assert len({each["grad_norm"] for each in steps}) == 6
    assert [each["lr"] for each in steps][:2] == pytest.approx([1.5e-3, 3e-3])
    assert steps[-1]["lr"] == pytest.approx(3e-5)


@pytest.mark.falsifies("FALSIFY-TRAIN-008")
def test_utilisation_is_null_with_a_reason_where_nobody_measures_it(scratch_run: RunResult) -> None:
    assert {each["gpu_util_pct"] for each in metrics_of(scratch_run.run_directory, "step")} == {None}
    record = json.loads((scratch_run.run_directory / "run.json").read_text())
    assert record["gpu_utilisation"] == "null: the run uses no GPU"


@pytest.mark.falsifies("FALSIFY-TRAIN-002")
@pytest.mark.planted_defect("GATE-TRAIN-002")
def test_a_checkpoint_of_a_run_has_room_for_its_first_stamp(scratch_run: RunResult) -> None:
    from apr.formats.apr2.layout import HEADER_BYTES, unpack_header
    from apr.formats.writing import STAMP_SLACK_BYTES

    for path in scratch_run.checkpoints:
        with path.open("rb") as file:
            header = unpack_header(file.read(HEADER_BYTES))
        assert header.index_offset_bytes - HEADER_BYTES - header.metadata_size_bytes >= STAMP_SLACK_BYTES


def test_each_epoch_leaves_a_checkpoint_that_its_successor_accepts(scratch_run: RunResult, tokenizer: Path) -> None:
    folder = scratch_run.run_directory / "ckpt"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"epoch-00{n}.{kind}" for n in (0, 1) for kind in ("apr", "metadata.json")]
    original = ["epoch", "train_loss", "val_loss", "train_ppl", "val_ppl", "optimizer_state_sha", "wall_seconds"]
    for number, path in enumerate(scratch_run.checkpoints):
        metadata = json.loads((folder / f"epoch-{number:03d}.metadata.json").read_text())
        assert list(metadata)[:9] == [*original, "tokens_seen", "grad_norm_max"]
        assert metadata["identity"] == {"hf_architecture": "Qwen2ForCausalLM", "hf_model_type": "qwen2"}
        examination = deepen(examine(path, RoadOptions(may_use_zoo=True)))
        assert examination.is_accepted
        checkpoint = examination.facts.checkpoint
        assert checkpoint is not None
        assert checkpoint.recorded.weights_digest == metadata["weights_digest"]
        assert checkpoint.recorded.probe is not None
        assert set(checkpoint.recorded.tensor_digests) == set(checkpoint.tensors)
        assert checkpoint.tokenizer_files() == {path.name: path.read_bytes() for path in tokenizer.iterdir()}
        assert checkpoint.config is not None
        assert checkpoint.config["hidden_size"] == 64
        examination.close()


@pytest.mark.falsifies("FALSIFY-TRAIN-006")
@pytest.mark.planted_defect("GATE-TRAIN-006")
def test_the_same_seed_gives_the_same_hundred_losses(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    def losses(name: str, **changes: object) -> list[float]:
        options = scratch_options(
            shards, tokenizer, tmp_path / name, steps=100, steps_per_epoch=100, sequence_length=16, **changes
        )
        return [metrics.train_loss for metrics in pretrain(options).steps]

    first = losses("a")
    assert len(first) == 100
    assert losses("b") == first
    assert losses("c", seed=43)[:3] != first[:3]


@pytest.mark.falsifies("FALSIFY-TRAIN-003")
def test_the_same_run_is_on_target_or_not_depending_on_the_target_alone(
    shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    for target, status in ((100.0, RunStatus.TARGET_MET), (0.1, RunStatus.BUDGET_EXHAUSTED)):
        options = scratch_options(shards, tokenizer, tmp_path / status.value, steps=2, target_validation_loss=target)
        result = pretrain(options)
        assert result.status is status
        written = json.loads((result.run_directory / "status.json").read_text())
        assert (written["schema"], written["status"]) == ("apr.pretrain/1", status.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.falsifies("FALSIFY-TRAIN-002", "FALSIFY-INIT-LOSS-001", "FALSIFY-APR-PRETRAIN-INIT-006")
@pytest.mark.falsifies("FALSIFY-GENERATION-001", "FALSIFY-LINEAGE-001")
def test_a_resumed_run_starts_at_the_recorded_loss_and_names_its_parent(
    dtype: str, shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    first = pretrain(scratch_options(shards, tokenizer, tmp_path / "a", dtype=dtype))
    second = pretrain(resume_options(first.checkpoints[-1], shards, tokenizer, tmp_path / "b", dtype="auto"))
    assert second.step0.validation_set_hash == first.step0.validation_set_hash
    assert second.step0.val_loss == pytest.approx(first.epochs[-1].val_loss, rel=1e-4)
    assert second.epochs[-1].val_loss < second.step0.val_loss
    record = json.loads((second.run_directory / "run.json").read_text())
    assert record["dtype"] == dtype
    gate = [each for each in record["findings"] if each["id"] == "INV-INIT-LOSS-001"]
    assert [each["status"] for each in gate] == ["pass"]
    with open_checkpoint(first.checkpoints[-1]) as parent, open_checkpoint(second.checkpoints[-1]) as child:
        assert child.recorded.training is not None
        assert child.recorded.training.parent_digest == parent.recorded.weights_digest
        assert [(stamp.key, stamp.value) for stamp in child.stamps] == [
            (stamp.key, stamp.value) for stamp in parent.stamps
        ]
        assert child.config == parent.config


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-010")
def test_zero_steps_load_and_measure_and_two_of_them_agree(
    scratch_run: RunResult, shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    init = scratch_run.checkpoints[-1]
    results = [
        pretrain(resume_options(init, shards, tokenizer, tmp_path / name, steps=0, force_under_provisioned=False))
        for name in ("a", "b")
    ]
    assert results[0].initial_digest == results[1].initial_digest
    assert results[0].step0.val_loss == results[1].step0.val_loss
    assert [(result.status, result.steps, result.checkpoints) for result in results] == [
        (RunStatus.BUDGET_EXHAUSTED, [], [])
    ] * 2


@pytest.mark.falsifies("FALSIFY-GENERATION-001")
def test_a_hugging_face_directory_resumes_with_its_own_identity(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "hf", "llama", vocab_size=VOCABULARY)
    result = pretrain(
        resume_options(
            directory, shards, tokenizer, tmp_path / "run", allowed_gates={"INV-INIT-LOSS-001": "random weights"}
        )
    )
    with open_checkpoint(result.checkpoints[-1]) as checkpoint:
        assert checkpoint.config is not None
        assert checkpoint.config["architectures"] == ["LlamaForCausalLM"]
        assert {stamp.value for stamp in checkpoint.stamps} == {"llama", "LlamaForCausalLM"}


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_an_untrained_init_is_refused_at_step_0(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "hf", "llama", vocab_size=VOCABULARY)
    with pytest.raises(RefusedError) as caught:
        pretrain(resume_options(directory, shards, tokenizer, tmp_path / "run"))
    assert caught.value.invariant == "INV-INIT-LOSS-001"
    assert not (tmp_path / "run").exists()


@pytest.mark.planted_defect("INV-INIT-LOSS-001")
def test_weights_that_changed_since_the_record_are_refused_by_their_loss(
    scratch_run: RunResult, shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run.evaluate

    def off_by_a_thousandth(*arguments: Any, **keywords: Any) -> EvaluationMetrics:
        measured = honest(*arguments, **keywords)
        return replace(measured, val_loss=measured.val_loss * 1.001)

    monkeypatch.setattr(run, "evaluate", off_by_a_thousandth)
    with pytest.raises(RefusedError) as caught:
        pretrain(resume_options(scratch_run.checkpoints[-1], shards, tokenizer, tmp_path / "run"))
    assert caught.value.invariant == "INV-INIT-LOSS-001"
    assert not (tmp_path / "run").exists()


REFUSED: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "no model": ({"architecture": None, "config_changes": {}}, UsageError, "name the model"),
    "two models": ({"init": Path("x")}, UsageError, "different models"),
    "unknown class": ({"architecture": "Qwen2ForCausalML"}, UsageError, "no model class"),
    "encoder": ({"architecture": "BertForMaskedLM"}, RefusedError, "no causal language model"),
    "bidirectional": (
        {"architecture": "BertLMHeadModel", "config_changes": {key: TINY[key] for key in list(TINY)[:3]}},
        RefusedError,
        "looks at the tokens",
    ),
    "unknown key": ({"config_changes": {"hiden_size": "64"}}, UsageError, "hiden_size"),
    "bad dimensions": ({"config_changes": {**TINY, "hidden_size": "63"}}, UsageError, "63|config"),
    "small vocabulary": ({"vocabulary_size": 300}, RefusedError, "no embedding for"),
    "no GPU": ({"device": "cuda:7"}, RefusedError, "DEVICE_UNAVAILABLE"),
    "unknown device": ({"device": "tpu"}, UsageError, "--device"),
    "many problems": ({"steps": -1, "batch_size": 0, "learning_rate": -1.0}, UsageError, "3 options"),
    "long windows": ({"sequence_length": 4096}, UsageError, "64"),
    "no data": ({"dataset": Path("/nonexistent/data")}, NotFoundError, "dataset"),
    "no tokenizer": ({"tokenizer": Path("/nonexistent/tokenizer")}, NotFoundError, "tokenizer"),
    "no checkpoint": (
        {"init": Path("/nonexistent/x.apr"), "architecture": None, "config_changes": {}},
        NotFoundError,
        "",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.planted_defect("INV-GPUTRAIN-002")
@pytest.mark.falsifies("FALSIFY-GPUTRAIN-002")
def test_a_refusal_leaves_no_run_directory(case: str, shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    changes, kind, words = REFUSED[case]
    if case == "no GPU" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has the device")
    with pytest.raises(kind) as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run", **changes))
    import re

    assert re.search(words, str(caught.value))
    assert not (tmp_path / "run").exists()


@pytest.mark.planted_defect("INV-TRAIN-BUDGET-001")
def test_too_short_a_run_for_its_size_is_refused(
    scratch_run: RunResult, shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    options = resume_options(scratch_run.checkpoints[-1], shards, tokenizer, tmp_path / "run")
    with pytest.raises(RefusedError, match="cannot start") as caught:
        pretrain(replace(options, force_under_provisioned=False))
    assert caught.value.findings[0]["id"] == "INV-TRAIN-BUDGET-001"
    assert not (tmp_path / "run").exists()


@pytest.mark.planted_defect("FALSIFY-APR-PRETRAIN-ARCH-010")
def test_another_tokenizer_than_the_recorded_one_is_refused(
    scratch_run: RunResult, source_tree: Path, tmp_path: Path
) -> None:
    from apr.training.tokenize_encode import EncodeOptions, encode_corpus
    from apr.training.tokenize_train import TokenizerTrainingOptions, train_tokenizer

    other = tmp_path / "other"
    train_tokenizer(TokenizerTrainingOptions(corpora=(source_tree / "json",), output=other, vocabulary_size=VOCABULARY))
    encode_corpus(EncodeOptions(corpora=(source_tree,), tokenizer=other, output=tmp_path / "tokens"))
    with pytest.raises(RefusedError) as caught:
        pretrain(resume_options(scratch_run.checkpoints[-1], tmp_path / "tokens", other, tmp_path / "run"))
    assert "FALSIFY-APR-PRETRAIN-ARCH-010" in {each["id"] for each in caught.value.findings}
    assert not (tmp_path / "run").exists()


def test_a_run_never_writes_among_the_files_of_another(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.falsifies("FALSIFY-TRAIN-007")
@pytest.mark.planted_defect("GATE-TRAIN-007")
def test_a_planted_nan_stops_the_run_at_that_step_and_never_reaches_the_weights(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = step._accumulate
    calls: list[int] = []
    weights: list[torch.Tensor] = []

    def poisoned(context: Any, windows: Any) -> Any:
        calls.append(1)
        loss = honest(context, windows)
        if len(calls) == 5:
            weights.extend(parameter.detach().clone() for parameter in context.optimizer._parameters)
            weights.append(context.optimizer._parameters)
            return loss * float("nan")
        return loss

    monkeypatch.setattr(step, "_accumulate", poisoned)
    with pytest.raises(GuardStopError, match="step 5 is not finite") as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))
    assert caught.value.exit_code == 6
    after = weights.pop()
    assert all(torch.equal(first, second) for first, second in zip(weights, after, strict=True))
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["steps_recorded"]) == ("ABORTED", 4)
    assert sorted(path.name for path in (tmp_path / "run" / "ckpt").glob("*.apr")) == ["epoch-000.apr"]


@pytest.mark.planted_defect("GATE-TRAIN-005")
@pytest.mark.falsifies("FALSIFY-TRAIN-005")
def test_a_diverging_run_is_aborted_without_a_checkpoint_of_that_epoch(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run.evaluate

    def doubling(*arguments: Any, **keywords: Any) -> EvaluationMetrics:
        measured = honest(*arguments, **keywords)
        return replace(measured, val_loss=measured.val_loss * (2.5 if keywords["epoch"] == 1 else 1))

    monkeypatch.setattr(run, "evaluate", doubling)
    with pytest.raises(GuardStopError, match="diverged"):
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "ABORTED"
    assert sorted(path.name for path in (tmp_path / "run" / "ckpt").glob("*.apr")) == ["epoch-000.apr"]


@pytest.mark.falsifies("FALSIFY-TRAIN-004")
@pytest.mark.planted_defect("GATE-TRAIN-004")
def test_a_loss_that_stands_still_ends_the_run_early(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda *a, **k: replace(honest(*a, **k), val_loss=5.0))
    result = pretrain(scratch_options(shards, tokenizer, tmp_path / "run", steps=20, steps_per_epoch=1))
    assert (result.status, len(result.epochs)) == (RunStatus.EARLY_STOP, 7)


@pytest.mark.falsifies("FALSIFY-TRAIN-EXHAUST")
@pytest.mark.planted_defect("INV-TRAIN-EXHAUST")
def test_running_out_of_data_is_announced_once_or_ends_the_run(
    own_shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    for path in own_shards.glob("*.bin"):
        path.write_bytes(path.read_bytes()[: 33 * 4 * 10] if path.name == "shard-00000.bin" else b"")
    allowed = dict.fromkeys(("INV-CORPUS-MANIFEST-001", "INV-CORPUS-EOD-001"), "cut short for the test")
    cycled = pretrain(scratch_options(own_shards, tokenizer, tmp_path / "a", allowed_gates=allowed))
    assert cycled.passes == 3
    notices = metrics_of(tmp_path / "a", "notice")
    assert [(each["id"], each["step"]) for each in notices] == [("INV-TRAIN-EXHAUST", 3)]
    options = scratch_options(own_shards, tokenizer, tmp_path / "b", allowed_gates=allowed, may_cycle=False)
    ended = pretrain(options)
    assert (ended.status, len(ended.steps)) == (RunStatus.BUDGET_EXHAUSTED, 2)
    assert ended.detail.startswith("StreamExhausted")


def test_micro_batches_give_the_gradient_of_the_batch(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    whole = pretrain(scratch_options(shards, tokenizer, tmp_path / "a", steps=3))
    split = pretrain(scratch_options(shards, tokenizer, tmp_path / "b", steps=3, micro_batch_size=1))
    for first, second in zip(whole.steps, split.steps, strict=True):
        assert second.train_loss == pytest.approx(first.train_loss, rel=1e-5)
        assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-4)


def test_a_full_disk_ends_the_run_and_keeps_what_was_there(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = checkpoints.write_apr2

    def full(path: Path, **keywords: Any) -> Any:
        if "epoch-001" in path.name:
            raise InputOutputError("cannot write: No space left on device", where=str(path), found="ENOSPC")
        return honest(path, **keywords)

    monkeypatch.setattr(checkpoints, "write_apr2", full)
    with pytest.raises(InputOutputError) as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))
    assert caught.value.exit_code == 7
    names = sorted(path.name for path in (tmp_path / "run" / "ckpt").iterdir())
    assert names == ["epoch-000.apr", "epoch-000.metadata.json"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "ABORTED"


def test_metrics_that_cannot_be_written_are_an_error_of_the_system(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apr.training.run_directory import RunDirectory

    class Full:
        def write(self, _text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None: ...

    honest = RunDirectory.__init__

    def broken(self: RunDirectory, *arguments: Any) -> None:
        honest(self, *arguments)
        self._metrics.close()
        self._metrics = Full()  # type: ignore[assignment]

    monkeypatch.setattr(RunDirectory, "__init__", broken)
    with pytest.raises(InputOutputError, match="No space left"):
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))


@pytest.mark.planted_defect("INV-GENERATION-001")
def test_a_checkpoint_that_is_not_its_model_never_appears(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = checkpoints.write_apr2

    def flipped(path: Path, **keywords: Any) -> Any:
        written = honest(path, **keywords)
        content = bytearray(path.read_bytes())
        content[-2000] ^= 4
        path.write_bytes(content)
        return written

    monkeypatch.setattr(checkpoints, "write_apr2", flipped)
    with pytest.raises(RefusedError, match="is not the model") as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"))
    assert "INV-GENERATION-001" in {each["id"] for each in caught.value.findings}
    assert list((tmp_path / "run" / "ckpt").iterdir()) == []


def test_stopping_leaves_a_checked_checkpoint_to_go_on_from(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    class StopAfterTwo:
        steps = 0

        def note(self, text: str) -> None: ...

        def started(self, total_steps: int) -> None: ...

        def stepped(self, metrics: Any) -> None:
            self.steps += 1

        def evaluated(self, metrics: Any) -> None: ...

    watcher = StopAfterTwo()
    with pytest.raises(InterruptedResumableError) as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"), watcher, lambda: watcher.steps >= 2)
    assert caught.value.exit_code == 75
    path = Path(caught.value.facts["checkpoint"])
    with open_checkpoint(path) as checkpoint:
        training = checkpoint.recorded.training
        assert training is not None
        assert (training.step, training.validation_loss) == (2, None)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "INTERRUPTED"
    resumed = pretrain(resume_options(path, shards, tokenizer, tmp_path / "again"))
    assert len(resumed.steps) == 6


def test_stopping_before_the_first_step_leaves_nothing(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError) as caught:
        pretrain(scratch_options(shards, tokenizer, tmp_path / "run"), None, lambda: True)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "run").exists()


@pytest.mark.falsifies("FALSIFY-TRAIN-009")
@pytest.mark.planted_defect("GATE-TRAIN-009")
def test_the_mode_switches_its_values_and_flags_win(tmp_path: Path) -> None:
    base = PretrainOptions(dataset=tmp_path, tokenizer=tmp_path, run_directory=tmp_path / "run", init=tmp_path / "x")
    settings = resolve_settings(base)
    assert (settings.mode, settings.schedule.peak, settings.schedule.warmup_steps) == (Mode.FINETUNE, 5e-5, 100)
    assert (settings.target_validation_loss, settings.epoch_zero_cap) == (2.2, 10.0)
    scratch = resolve_settings(replace(base, init=None, architecture="Qwen2ForCausalLM"))
    assert (scratch.mode, scratch.schedule.peak, scratch.schedule.warmup_steps) == (Mode.FROM_SCRATCH, 3e-4, 1000)
    assert (scratch.target_validation_loss, scratch.epoch_zero_cap) == (3.0, None)
    mixed = resolve_settings(replace(base, mode=Mode.FROM_SCRATCH, learning_rate=1e-4, target_validation_loss=1.5))
    assert (mixed.schedule.peak, mixed.schedule.warmup_steps, mixed.target_validation_loss) == (1e-4, 1000, 1.5)


@pytest.mark.falsifies("FALSIFY-GPUTRAIN-001")
@pytest.mark.planted_defect("INV-GPUTRAIN-001")
def test_devices_are_named_in_one_grammar() -> None:
    from apr.training.devices import check_device_grammar

    for name in ("cpu", "auto", "cuda", *(f"cuda:{number}" for number in range(16))):
        check_device_grammar(name)
    for name in ("", "gpu", "CUDA", "cuda:16", "cuda:-1", "cuda:01", "cuda:", "cpu:0", "mps", "cuda:1 "):
        with pytest.raises(UsageError, match="device"):
            check_device_grammar(name)


def test_signals_end_a_run_on_the_command_line(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    """SIGTERM during training: exit 75, a checkpoint that preflight accepts, nothing half-written."""
    import subprocess
    import sys
    import time

    words = [sys.executable, "-c", "import sys; from apr.cli.main import main; sys.exit(main())", "pretrain"]
    words += ["--dataset", str(shards), "--tokenizer", str(tokenizer), "--run-dir", str(tmp_path / "run")]
    words += ["--arch", "Qwen2ForCausalLM", "--num-steps", "100000", "--batch-size", "2", "--seq-length", "16"]
    words += ["--steps-per-epoch", "50000", "--val-windows", "4", "--device", "cpu"]
    words += ["--set", "hidden_size=32", "--set", "num_hidden_layers=1", "--set", "num_attention_heads=2"]
    words += ["--set", "num_key_value_heads=1", "--set", "intermediate_size=64"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline_s = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count('"step"') > 5):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors.decode()
    assert sorted(path.name for path in (tmp_path / "run" / "ckpt").iterdir()) == [
        "epoch-000.apr",
        "epoch-000.metadata.json",
    ]
    examination = deepen(examine(tmp_path / "run" / "ckpt" / "epoch-000.apr", RoadOptions(may_use_zoo=True)))
    assert examination.is_accepted
    examination.close()
