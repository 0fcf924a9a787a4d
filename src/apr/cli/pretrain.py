"""`apr pretrain`: train, from scratch or from a checkpoint that passed the gates."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from apr.cli.options import PATH, allow_options, json_option, parse_reasons
from apr.cli.out import Out, human_count, human_duration
from apr.cli.watcher import Watcher
from apr.errors import GuardStopError, UsageError, shell_word

if TYPE_CHECKING:
    from apr.training.metrics import EvaluationMetrics, StepMetrics
    from apr.training.options import PretrainOptions
    from apr.training.result import RunResult

MODEL, DATA, OPTIMISATION, MACHINE = "Model", "Data", "Optimisation", "Machine"


@click.command("pretrain")
@click.option("--dataset", type=PATH, required=True, help="Directory of token shards (`apr tokenize encode-corpus`).")
@click.option("--tokenizer", type=PATH, required=True, help="Directory of the tokenizer the shards were made with.")
@click.option("--run-dir", type=PATH, required=True, help="New directory for metrics and checkpoints.")
@click.option("--init", type=PATH, help="Checkpoint to start from: .apr, .safetensors or Hugging Face directory.")
@click.option("--arch", metavar="CLASS", help="From scratch: model class of transformers, such as Qwen2ForCausalLM.")
@click.option("--config", "config_file", type=PATH, help="From scratch: a config.json, or a directory that has one.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the config from scratch: hidden_size=512 ..."
)
@click.option(
    "--mode",
    type=click.Choice(["finetune", "from-scratch"]),
    help="Defaults for lr, warm-up and target: 5e-5/100/2.2 or 3e-4/1000/3.0. Default: finetune with --init.",
)
@click.option("--lr", type=float, help="Peak learning rate; good number to lower if the run diverges.")
@click.option("--num-steps", type=int, default=1000, show_default=True, help="Updates; 0 loads and measures only.")
@click.option("--warmup-steps", type=int, help="Steps over which the rate rises to its peak.")
@click.option("--batch-size", type=int, default=16, show_default=True, help="Windows in one update.")
@click.option(
    "--micro-batch-size", type=int, help="Windows in memory at once; lower it if memory is short, results stay equal."
)
@click.option("--seq-length", type=int, default=1024, show_default=True, help="Target tokens in one window.")
@click.option("--steps-per-epoch", type=int, default=100, show_default=True, help="Updates between checkpoints.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of weights from scratch and of the data order.")
@click.option("--target-val-loss", type=float, help="Validation loss in nats that counts as reached (TARGET_MET).")
@click.option("--vocab-size", type=int, help="Embedding rows from scratch; default: the tokenizer's vocabulary.")
@click.option("--val-shard", type=PATH, help="Directory of shards to validate on; default: DATASET/validation.")
@click.option("--val-windows", type=int, help="Windows in the validation set; default: about 16,384 tokens.")
@click.option(
    "--allow-shard-cycle/--no-shard-cycle",
    default=True,
    show_default=True,
    help="Start over when every window was seen (announced once), or stop there (StreamExhausted).",
)
@click.option("--synthetic", is_flag=True, hidden=True, help="Upstream's made-up losses; there is no such path here.")
@click.option("--device", default="auto", show_default=True, help="cpu, auto, cuda or cuda:0 to cuda:15.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the weights; auto: the checkpoint's with --init, float32 from scratch.",
)
@click.option("--force-under-provisioned", is_flag=True, help="Train on fewer than 10 tokens per parameter.")
@allow_options
@json_option
@click.pass_obj
def command(out: Out, /, **arguments: Any) -> None:
    """Train a causal language model on token shards.

    With --init the run starts only if every gate accepts the checkpoint (see `apr preflight`); a refusal leaves no
    run directory and takes no step. Ctrl+C saves a checked checkpoint and exits 75; a second one stops at once.
    """
    from apr.training.run import pretrain

    options = _options(arguments, _words_to_retry(click.get_current_context()))
    with _stop_on_signal(out) as stop, ExitStack() as stack:
        try:
            result = pretrain(options, _Watcher(out, stack), stop)
        except GuardStopError:
            _answer_aborted(out, options)
            raise
    _answer(out, result)


def _words_to_retry(context: click.Context) -> tuple[str, ...]:
    """The options the user typed, as words, but for the checkpoint, which a repair replaces."""
    words: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        value = context.params.get(parameter.name or "")
        if source is not ParameterSource.COMMANDLINE or parameter.name == "init" or not parameter.expose_value:
            continue
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[0], str(each)]
    return tuple(words)


def _options(arguments: Mapping[str, Any], retry_words: tuple[str, ...] = ()) -> PretrainOptions:
    from apr.training.options import PretrainOptions
    from apr.training.schedule import Mode

    if arguments["synthetic"]:
        raise UsageError(
            "there is no synthetic path: every loss comes from the model and the corpus",
            found="--synthetic",
            remedy="leave --synthetic out, and name a corpus with --dataset",
            invariant="GATE-TRAIN-010",
        )
    mode = arguments["mode"]
    return PretrainOptions(
        dataset=arguments["dataset"],
        tokenizer=arguments["tokenizer"],
        run_directory=arguments["run_dir"],
        mode=None if mode is None else Mode(mode),
        learning_rate=arguments["lr"],
        steps=arguments["num_steps"],
        warmup_steps=arguments["warmup_steps"],
        batch_size=arguments["batch_size"],
        micro_batch_size=arguments["micro_batch_size"],
        sequence_length=arguments["seq_length"],
        steps_per_epoch=arguments["steps_per_epoch"],
        seed=arguments["seed"],
        target_validation_loss=arguments["target_val_loss"],
        vocabulary_size=arguments["vocab_size"],
        device=arguments["device"],
        dtype=arguments["dtype"],
        init=arguments["init"],
        architecture=arguments["arch"],
        config_file=arguments["config_file"],
        config_changes=_changes(arguments["changes"]),
        force_under_provisioned=arguments["force_under_provisioned"],
        validation_shards=arguments["val_shard"],
        validation_windows=arguments["val_windows"],
        may_cycle=arguments["allow_shard_cycle"],
        allowed_tensors=parse_reasons(arguments["allowed_tensors"], "--allow"),
        allowed_gates=parse_reasons(arguments["allowed_gates"], "--allow-gate"),
        retry_words=retry_words,
    )


def _changes(entries: tuple[str, ...]) -> dict[str, str]:
    changes = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not (key and separator):
            raise UsageError("--set needs a key and a value", expected="--set KEY=VALUE", found=f"--set {entry}")
        changes[key] = value
    return changes


class _Watcher(Watcher):
    """Shows a run as it goes: notes and evaluations as lines, steps as progress with the time left."""

    def started(self, total_steps: int) -> None:
        self.open("training", total_steps, "steps")

    def stepped(self, metrics: StepMetrics) -> None:
        self.advance(
            detail=f"loss {metrics.train_loss:.4f}, norm {metrics.grad_norm:.2f}, lr {metrics.lr:.2e}, "
            f"{metrics.tokens_per_sec:,.0f} tokens/s"
        )

    def evaluated(self, metrics: EvaluationMetrics) -> None:
        where = "step 0" if metrics.epoch is None else f"epoch {metrics.epoch} (step {metrics.step})"
        self.note(f"{where}: validation loss {metrics.val_loss:.4f}")


@contextmanager
def _stop_on_signal(out: Out) -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl+C or SIGTERM asks the run to end well, a second one ends it at once.

    Gives the question the run asks. The handler itself writes nothing: it may interrupt a write to the same stream.
    """
    asked: list[int] = []
    announced: list[bool] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def should_stop() -> bool:
        if asked and not announced:
            announced.append(True)
            out.note("stopping with a checkpoint; once more stops at once")
        return bool(asked)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield should_stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _answer_aborted(out: Out, options: PretrainOptions) -> None:
    """The document of a run that a guard stopped, as it stands in its directory."""
    import json

    from apr.training.run_directory import STATUS_FILE

    document = json.loads((Path(options.run_directory) / STATUS_FILE).read_bytes())
    out.document(document.pop("schema"), document)


def _answer(out: Out, result: RunResult) -> None:
    from apr.training.result import SCHEMA

    out.document(SCHEMA, result.to_json())
    final, wall_ms = result.final_validation_loss, sum(metrics.wall_ms for metrics in result.steps)
    out.text(f"{result.status.value}: {result.detail}", bold=True)
    out.pairs(
        [
            ("run", result.run_directory),
            ("weights at step 0", result.initial_digest),
            ("loss at step 0", f"{result.step0.val_loss:.4f}"),
            ("validation loss", None if final is None else f"{final:.4f}"),
            ("steps", f"{len(result.steps)} in {human_duration(wall_ms / 1000)}"),
            ("tokens", human_count(result.steps[-1].tokens_seen) if result.steps else None),
            ("checkpoint", result.checkpoints[-1] if result.checkpoints else None),
        ]
    )
    if result.checkpoints:
        out.hint(f"apr export {shell_word(result.checkpoints[-1])} --format hf -o DIR opens it in transformers")
