"""What a pretraining run is asked for, checked as a whole before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from apr.errors import UsageError, in_lines
from apr.training.devices import DEVICE_GRAMMAR
from apr.training.schedule import REGIMES, Mode, Schedule

DTYPES = ("auto", "float32", "bfloat16")
LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class PretrainOptions:
    """Options of `apr pretrain`; None means "as the mode or the checkpoint says".

    init: checkpoint to start from; architecture (class name) or config_file: model to build from scratch, with
    `config_changes` laid over its config. Sizes in tokens and windows of `sequence_length` targets each.
    allowed_tensors, allowed_gates: name or id to the user's reason, recorded in the run. retry_words: the words that,
    behind `apr pretrain --init CHECKPOINT`, ask for this run again; a refusal shows them with the repaired checkpoint.
    """

    dataset: Path
    tokenizer: Path
    run_directory: Path
    mode: Mode | None = None
    learning_rate: float | None = None
    steps: int = 1000
    warmup_steps: int | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    sequence_length: int = 1024
    steps_per_epoch: int = 100
    seed: int = 42
    target_validation_loss: float | None = None
    vocabulary_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    init: Path | None = None
    architecture: str | None = None
    config_file: Path | None = None
    config_changes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    force_under_provisioned: bool = False
    validation_shards: Path | None = None
    validation_windows: int | None = None
    may_cycle: bool = True
    allowed_tensors: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    allowed_gates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    retry_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The values a run really uses, after mode and flags; epoch_zero_cap None means 2 ln(vocabulary)."""

    mode: Mode
    schedule: Schedule
    target_validation_loss: float
    epoch_zero_cap: float | None
    batch_size: int
    micro_batch_size: int
    sequence_length: int
    steps_per_epoch: int
    steps: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length


def resolve_settings(options: PretrainOptions) -> Settings:
    """The settings of `options`: explicit values first, then the mode's (finetune with --init, else from-scratch).

    Raises one UsageError that names every contradicting or impossible option.
    """
    problems = _problems(options)
    if problems:
        raise UsageError(
            f"{len(problems)} option{'s' if len(problems) > 1 else ''} cannot be used",
            found=in_lines(*problems),
            remedy="apr pretrain --help",
        )
    mode = options.mode or (Mode.FINETUNE if options.init is not None else Mode.FROM_SCRATCH)
    regime = REGIMES[mode]
    peak = regime.learning_rate if options.learning_rate is None else options.learning_rate
    warmup = regime.warmup_steps if options.warmup_steps is None else options.warmup_steps
    target = options.target_validation_loss
    return Settings(
        mode=mode,
        schedule=Schedule(peak, warmup, options.steps),
        target_validation_loss=regime.target_validation_loss if target is None else target,
        epoch_zero_cap=regime.epoch_zero_cap,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size or options.batch_size,
        sequence_length=options.sequence_length,
        steps_per_epoch=options.steps_per_epoch,
        steps=options.steps,
    )


def _problems(options: PretrainOptions) -> list[str]:
    problems = [
        f"{flag} must be at least {least}, not {value}"
        for flag, value, least in (
            ("--num-steps", options.steps, 0),
            ("--warmup-steps", options.warmup_steps, 0),
            ("--batch-size", options.batch_size, 1),
            ("--micro-batch-size", options.micro_batch_size, 1),
            ("--seq-length", options.sequence_length, 1),
            ("--steps-per-epoch", options.steps_per_epoch, 1),
            ("--seed", options.seed, 0),
            ("--vocab-size", options.vocabulary_size, 1),
            ("--val-windows", options.validation_windows, 1),
        )
        if value is not None and value < least
    ]
    for flag, number in (("--lr", options.learning_rate), ("--target-val-loss", options.target_validation_loss)):
        if number is not None and not 0 < number < float("inf"):
            problems.append(f"{flag} must be a positive number, not {number}")
    if options.seed > LARGEST_SEED:
        problems.append(f"--seed must be at most {LARGEST_SEED}")
    if options.micro_batch_size is not None and options.micro_batch_size > options.batch_size:
        problems.append(f"--micro-batch-size {options.micro_batch_size} is larger than --batch-size")
    if DEVICE_GRAMMAR.fullmatch(options.device) is None:
        problems.append(f"--device must be cpu, auto, cuda or cuda:0 to cuda:15, not {options.device!r}")
    if options.dtype not in DTYPES:
        problems.append(f"--dtype must be one of {', '.join(DTYPES)}, not {options.dtype!r}")
    return problems + _model_problems(options) + _place_problems(options)


def _model_problems(options: PretrainOptions) -> list[str]:
    named = [
        flag
        for flag, value in (
            ("--init", options.init),
            ("--arch", options.architecture),
            ("--config", options.config_file),
        )
        if value is not None
    ]
    if not named:
        return ["name the model: --init CHECKPOINT to go on, or --arch CLASS or --config FILE to start from scratch"]
    problems = []
    if options.init is not None and len(named) > 1:
        problems.append(f"{' and '.join(named)} name different models; give one")
    if options.init is not None and options.config_changes:
        problems.append("--set changes the config of a model from scratch; with --init the checkpoint's config is used")
    if options.init is None and (options.allowed_tensors or options.force_under_provisioned):
        problems.append("--allow and --force-under-provisioned belong to --init")
    return problems


def _place_problems(options: PretrainOptions) -> list[str]:
    place = options.run_directory
    if place.is_symlink() or place.exists():
        if not place.is_dir():
            return [f"--run-dir {place} is a file"]
        if any(place.iterdir()):
            return [f"--run-dir {place} is not empty; a run never writes among the files of another"]
    return []
