"""Training throughput of `apr pretrain` against `transformers.Trainer`: same model, weights, batches, dtype, threads.

Both train in turn, several rounds in one process, so that whatever else the machine does meets both. The figure is the
median over rounds of the ratio of tokens per second, each taken from the median time between the ends of two steps,
everything included that a user waits for (data, forward, backward, clipping, update, metrics, logging).

    python benchmarks/train_vs_trainer.py [--dtype bfloat16] [--rounds 5] [--steps 20] [--hidden 256] [--vocab 8192]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from apr.training.data import TrainingWindows
from apr.training.devices import choose_device, utilisation_meter
from apr.training.optimizer import Optimizer
from apr.training.options import Settings
from apr.training.run_directory import RunDirectory
from apr.training.schedule import Mode, Schedule
from apr.training.step import StepContext, train_step
from apr.training.token_loss import TokenLoss
from apr.training.versions import library_versions
from apr.training.windows import WindowedShards, find_shards

SKIPPED_STEPS = 3


def main() -> None:
    arguments = parse()
    device = choose_device(arguments.device)
    print(f"hardware  {device.hardware}, {torch.get_num_threads()} threads, device {device.name}")
    print("versions  " + ", ".join(f"{name} {version}" for name, version in library_versions().items()))
    print(
        f"workload  Qwen2 hidden {arguments.hidden}, {arguments.layers} layers, vocabulary {arguments.vocab}, "
        f"{arguments.dtype}, batch {arguments.batch} x {arguments.length} tokens, {arguments.steps} steps a round"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        windows = make_windows(Path(folder), arguments)
        for number in range(arguments.rounds):
            ours = tokens_per_second(arguments, train_ours(arguments, windows, device.name, Path(folder) / f"{number}"))
            theirs = tokens_per_second(arguments, train_theirs(arguments, windows, device.name, Path(folder)))
            ratios.append(ours / theirs)
            print(
                f"round {number}   apr {ours:9,.0f} tokens/s   Trainer {theirs:9,.0f} tokens/s   ratio {ratios[-1]:.3f}"
            )
    print(f"ratio     {statistics.median(ratios):.3f} (median of {len(ratios)} rounds; at least 1.0 is the promise)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    for name, default in (("rounds", 5), ("steps", 20), ("hidden", 256), ("layers", 4), ("vocab", 8192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    return parser.parse_args()


def make_windows(folder: Path, arguments: argparse.Namespace) -> TrainingWindows:
    ids = numpy.random.default_rng(0).integers(0, arguments.vocab, arguments.batch * (arguments.length + 1) * 64)
    (folder / "data").mkdir()
    ids.astype("<u4").tofile(folder / "data" / "shard-00000.bin")
    windows = WindowedShards(find_shards(folder / "data"), arguments.length)
    return TrainingWindows(windows, numpy.empty(0, dtype=numpy.int64), 42, "benchmark")


def make_model(arguments: argparse.Namespace, device: str) -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=arguments.vocab,
        hidden_size=arguments.hidden,
        intermediate_size=4 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 32,
        num_key_value_heads=max(1, arguments.hidden // 64),
        max_position_embeddings=arguments.length,
    )
    return transformers.Qwen2ForCausalLM(config).to(device, getattr(torch, arguments.dtype)).train()


def train_ours(arguments: argparse.Namespace, windows: TrainingWindows, device: str, folder: Path) -> list[float]:
    """Times of the ends of all steps, in seconds."""
    model = make_model(arguments, device)
    settings = Settings(
        mode=Mode.FROM_SCRATCH,
        schedule=Schedule(3e-4, 5, arguments.steps),
        target_validation_loss=1.0,
        epoch_zero_cap=None,
        batch_size=arguments.batch,
        micro_batch_size=arguments.batch,
        sequence_length=arguments.length,
        steps_per_epoch=arguments.steps,
        steps=arguments.steps,
    )
    meter = utilisation_meter(choose_device(device))
    context = StepContext(settings, windows, TokenLoss(model, arguments.vocab), Optimizer(model), device, meter)
    directory, ends_s = RunDirectory(folder, {}), []
    for step in range(1, arguments.steps + 1):
        directory.log(train_step(context, step).to_json())
        ends_s.append(time.perf_counter())
    directory.close()
    return ends_s


class StepTimes(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.ends_s: list[float] = []

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        self.ends_s.append(time.perf_counter())


class WindowDataset(torch.utils.data.Dataset):
    def __init__(self, windows: TrainingWindows, count: int) -> None:
        self._windows, self._count = windows, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self._windows.batch(index + 1, 1)[0, :-1])
        return {"input_ids": ids, "labels": ids}


def train_theirs(arguments: argparse.Namespace, windows: TrainingWindows, device: str, folder: Path) -> list[float]:
    """Times of the ends of all steps, in seconds."""
    times = StepTimes()
    trainer = transformers.Trainer(
        model=make_model(arguments, device),
        args=transformers.TrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=arguments.batch,
            max_steps=arguments.steps,
            learning_rate=3e-4,
            weight_decay=0.01,
            max_grad_norm=1.0,
            warmup_steps=5,
            lr_scheduler_type="cosine",
            logging_strategy="steps",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            seed=42,
        ),
        train_dataset=WindowDataset(windows, arguments.batch * arguments.steps),
        callbacks=[times],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return times.ends_s


def tokens_per_second(arguments: argparse.Namespace, ends_s: list[float]) -> float:
    between_s = [
        later - earlier for earlier, later in zip(ends_s[SKIPPED_STEPS:], ends_s[SKIPPED_STEPS + 1 :], strict=False)
    ]
    return arguments.batch * arguments.length / statistics.median(between_s)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
