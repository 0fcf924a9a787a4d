"""The founding story, act by act: train, be mislabelled, be refused, be repaired, resume at the recorded loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apr.demo.biases import spread_biases
from apr.demo.commands import CommandOutcome, printed_command, run_apr
from apr.demo.expectations import Expectations
from apr.demo.mislabel import write_mislabelled
from apr.demo.size import FALSE_CLASS, MODEL_CLASS, DemoSize
from apr.demo.stamped_load import StampedLoad, load_as_stamped, write_as_stamped
from apr.demo.text import standard_library_files
from apr.demo.watching import DemoWatcher, RunObserver
from apr.formats.registry import open_checkpoint
from apr.loading.digest import TensorDigest, weights_digest
from apr.loading.model_digest import model_digest
from apr.storage.checksums import blake3_hex
from apr.training.encode_options import EncodeOptions, EosPolicy
from apr.training.options import PretrainOptions
from apr.training.prepare import prepare
from apr.training.result import RunResult
from apr.training.run import pretrain, train_prepared
from apr.training.tokenize_encode import encode_corpus
from apr.training.tokenize_train import TokenizerTrainingOptions, train_tokenizer

TOKENIZER, TOKENS, CONFIG = "tokenizer", "tokens", "config.json"
TRAINED_RUN, RESUMED_RUN = "trained", "resumed"
MISLABELLED, AS_STAMPED = "mislabelled.apr", "mislabelled-hf"
STEP0_TOLERANCE_RELATIVE = 1e-4
REFUSED_EXIT_CODE = 5
REFUSING_GATES = ("INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001")
# What the acts beside training cost, in training steps; for the time left, not for any claim.
ACT_UNITS = {
    "text": 12,
    "tokens": 8,
    "start": 12,
    "mislabel": 2,
    "load as stamped": 8,
    "refusal": 20,
    "repair": 6,
    "resume": 12,
}


@dataclass
class Story:
    """What happened and what was measured, filled in act by act. Paths are relative to `directory`."""

    directory: Path
    size: DemoSize
    seed: int
    watcher: DemoWatcher
    expectations: Expectations = field(default_factory=Expectations)
    act_seconds: dict[str, float] = field(default_factory=dict)
    text_files: int = 0
    corpus: Mapping[str, Any] = field(default_factory=dict)
    biases_drawn: int = 0
    trained: RunResult | None = None
    resumed: RunResult | None = None
    stamped: StampedLoad | None = None
    refusal: CommandOutcome | None = None
    stamp: CommandOutcome | None = None
    repaired: str = ""
    weights_digest: str = ""
    quality_before: Mapping[str, Any] = field(default_factory=dict)
    quality_after: Mapping[str, Any] = field(default_factory=dict)
    second_generation: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uniform_loss(self) -> float:
        """ln(vocabulary), the loss of a model that knows nothing."""
        return math.log(self.size.vocabulary_size)

    @property
    def recorded_loss(self) -> float:
        """The validation loss that the mislabelled checkpoint records."""
        assert self.trained is not None
        assert self.trained.final_validation_loss is not None
        return self.trained.final_validation_loss

    @property
    def random_loss(self) -> float:
        """The validation loss of the model before its first update."""
        assert self.trained is not None
        return self.trained.step0.val_loss

    @property
    def resume_difference(self) -> float:
        """How far the loss at the resumed run's step 0 is from the recorded one, relative."""
        assert self.resumed is not None
        return abs(self.resumed.step0.val_loss - self.recorded_loss) / self.recorded_loss

    def path(self, name: str) -> Path:
        return self.directory / name

    @contextmanager
    def act(self, name: str, title: str) -> Iterator[None]:
        """One act: announced, timed, and counted as progress when it is done."""
        self.watcher.note(title)
        started_s = time.perf_counter()
        yield
        self.act_seconds[name] = time.perf_counter() - started_s
        self.watcher.advanced(ACT_UNITS.get(name, 0), "")


def tell(story: Story) -> None:
    """Act out the whole story in `story.directory`, which exists and is empty but for its marker.

    Raises ExpectationFailedError as soon as a claim does not hold, and whatever the acts raise.
    """
    story.watcher.started(sum(ACT_UNITS.values()) + story.size.steps + story.size.resumed_steps)
    prepare_text(story)
    train(story)
    mislabel(story)
    be_refused(story)
    load_as_others_do(story)
    repair(story)
    resume(story)
    look_at_second_generation(story)


def prepare_text(story: Story) -> None:
    """Act 1: the standard library's sources become a tokenizer and token shards, split by document."""
    size = story.size
    with story.act("text", "1  a tokenizer from the sources of the Python standard library"):
        files = standard_library_files(size.text_bytes)
        story.text_files = len(files)
        train_tokenizer(TokenizerTrainingOptions(files, story.path(TOKENIZER), vocabulary_size=size.vocabulary_size))
    with story.act("tokens", "   token shards, training and validation apart by document"):
        encoded = encode_corpus(
            EncodeOptions(
                files,
                story.path(TOKENIZER),
                story.path(TOKENS),
                eos_policy=EosPolicy.AFTER,
                validation_documents=size.validation_documents,
            )
        )
    story.corpus = encoded.manifest


def train(story: Story) -> None:
    """Act 2: a small Qwen2 from scratch, whose q/k/v biases carry part of what it knows."""
    size = story.size
    story.path(CONFIG).write_text(json.dumps(size.config(), indent=2) + "\n", encoding="utf-8")
    options = PretrainOptions(
        dataset=story.path(TOKENS),
        tokenizer=story.path(TOKENIZER),
        run_directory=story.path(TRAINED_RUN),
        config_file=story.path(CONFIG),
        learning_rate=size.learning_rate,
        steps=size.steps,
        warmup_steps=size.warmup_steps,
        steps_per_epoch=size.steps_per_epoch,
        batch_size=size.batch_size,
        sequence_length=size.sequence_length,
        seed=story.seed,
        device="cpu",
    )
    observer = RunObserver(story.watcher)
    with story.act("start", f"2  a {MODEL_CLASS} from scratch, with q/k/v biases that matter"):
        prepared = prepare(options, observer)
        story.biases_drawn = spread_biases(prepared.model, story.seed)
        prepared.initial_digest = model_digest(prepared.model)
    with story.act("training", f"   {size.steps} steps"):
        story.trained = train_prepared(prepared, observer)
    story.expectations.expect(
        "training learned something",
        story.recorded_loss < story.random_loss,
        expected=f"below the {story.random_loss:.4f} of the untrained model",
        found=f"{story.recorded_loss:.4f}",
    )


def mislabel(story: Story) -> None:
    """Act 3: a copy of the last checkpoint, in the state of the founding file: every label says Llama."""
    assert story.trained is not None
    with story.act("mislabel", f"3  a copy stamped {FALSE_CLASS}, its tensors untouched"):
        write_mislabelled(story.trained.checkpoints[-1], story.path(MISLABELLED))
    original, copy = stored_digest(story.trained.checkpoints[-1]), stored_digest(story.path(MISLABELLED))
    story.expectations.expect_equal("the mislabelled copy holds the trained tensors", original, copy)
    story.weights_digest = copy
    quality = run_apr(["inspect", MISLABELLED, "--quality", "--json"], story.directory).document()
    story.quality_before = quality["quality"]
    story.expectations.expect_equal("quality of the mislabelled copy", 40, story.quality_before["score"])
    identity = story.quality_before["breakdown"]["hf_identity"]
    story.expectations.expect_equal("hf_identity points of the mislabelled copy", 0, identity)


def be_refused(story: Story) -> None:
    """Act 4: `apr pretrain --init` on it, as a user runs it; nothing but the label stands in its way."""
    arguments = ["pretrain", "--init", MISLABELLED, "--dataset", TOKENS, "--tokenizer", TOKENIZER]
    arguments += ["--run-dir", RESUMED_RUN, "--num-steps", str(story.size.resumed_steps)]
    arguments += ["--seq-length", str(story.size.sequence_length), "--force-under-provisioned"]
    before = sorted(path.name for path in story.directory.iterdir())
    with story.act("refusal", "4  apr pretrain --init on the copy"):
        story.refusal = run_apr(arguments, story.directory)
    expectations, text = story.expectations, story.refusal.text
    story.watcher.note(f"  exit code {story.refusal.exit_code} after {story.refusal.seconds:.1f} s")
    expectations.expect_equal("pretrain --init refuses", REFUSED_EXIT_CODE, story.refusal.exit_code)
    named = [invariant for invariant in REFUSING_GATES if invariant in text]
    expectations.expect_equal("the refusal names the gates that speak", list(REFUSING_GATES), named)
    after = sorted(path.name for path in story.directory.iterdir())
    expectations.expect_equal("no run directory, and so no step, is left by the refusal", before, after)


def load_as_others_do(story: Story) -> None:
    """Act 5: the same copy through `from_pretrained`, which loads it as it is stamped."""
    with story.act("load as stamped", "5  for comparison, the same file as transformers loads it"):
        write_as_stamped(story.path(MISLABELLED), story.path(AS_STAMPED))
        story.stamped = load_as_stamped(story.path(AS_STAMPED), story.path(TOKENS), story.size, story.seed)
    assert story.trained is not None
    stamped, expectations = story.stamped, story.expectations
    story.watcher.note(f"  {stamped.loader} loads it as {stamped.loaded_as}: loss {stamped.validation_loss:.4f}")
    expectations.expect_equal("transformers loads the copy as it is stamped", FALSE_CLASS, stamped.loaded_as)
    expectations.expect_equal("the biases are what it never asks for", story.biases_drawn, len(stamped.unused))
    expectations.expect_equal(
        "both losses are of the same validation windows",
        story.trained.step0.validation_set_hash,
        stamped.validation_set_hash,
    )
    damage = stamped.validation_loss / story.recorded_loss - 1
    expectations.expect(
        "the load as stamped starts from a worse model than was saved",
        damage > story.size.least_bias_damage,
        expected=f"more than {100 * story.size.least_bias_damage:.1f} % above {story.recorded_loss:.4f}",
        found=f"{stamped.validation_loss:.4f}, {100 * damage:.1f} %",
    )


def repair(story: Story) -> None:
    """Act 6: the line that the refusal printed, run as it stands."""
    assert story.refusal is not None
    expectations = story.expectations
    words = printed_command(story.refusal.text, "apr stamp ")
    expectations.expect(
        "the refusal prints the command that repairs", words is not None, expected="apr stamp ...", found=words
    )
    assert words is not None
    with story.act("repair", "6  the stamp command that the refusal printed"):
        story.stamp = run_apr(words[1:], story.directory)
        expectations.expect_equal("the printed command succeeds", 0, story.stamp.exit_code)
        story.repaired = words[words.index("-o") + 1]
        document = run_apr(["inspect", story.repaired, "--quality", "--json"], story.directory).document()
    story.quality_after = document["quality"]
    expectations.expect_equal(
        "the stamp changes no tensor", story.weights_digest, stored_digest(story.path(story.repaired))
    )
    expectations.expect_equal("quality after the stamp", 60, story.quality_after["score"])
    expectations.expect_equal("hf_identity points after the stamp", 20, story.quality_after["breakdown"]["hf_identity"])


def resume(story: Story) -> None:
    """Act 7: training goes on from the repaired file, at the loss that was recorded."""
    size = story.size
    options = PretrainOptions(
        dataset=story.path(TOKENS),
        tokenizer=story.path(TOKENIZER),
        run_directory=story.path(RESUMED_RUN),
        init=story.path(story.repaired),
        learning_rate=size.resumed_learning_rate,
        steps=size.resumed_steps,
        warmup_steps=size.resumed_warmup_steps,
        steps_per_epoch=size.resumed_steps_per_epoch,
        batch_size=size.batch_size,
        sequence_length=size.sequence_length,
        seed=story.seed + 1,
        device="cpu",
        force_under_provisioned=True,
    )
    with story.act("resume", "7  apr pretrain --init on the repaired file"):
        story.resumed = pretrain(options, RunObserver(story.watcher))
    expectations, step0, final = story.expectations, story.resumed.step0, story.resumed.final_validation_loss
    expectations.expect(
        "the resumed run starts at the recorded loss",
        story.resume_difference <= STEP0_TOLERANCE_RELATIVE,
        expected=f"{story.recorded_loss:.6f} within {STEP0_TOLERANCE_RELATIVE:g} relative",
        found=f"{step0.val_loss:.6f}, off by {story.resume_difference:.2e}",
    )
    expectations.expect(
        "the resumed run goes on improving",
        final is not None and final < story.recorded_loss,
        expected=f"below {story.recorded_loss:.6f}",
        found=final,
    )


def look_at_second_generation(story: Story) -> None:
    """Act 8: what the resumed run wrote says what it is, and names the weights it came from."""
    assert story.resumed is not None
    newest = story.resumed.checkpoints[-1].relative_to(story.directory).as_posix()
    with story.act("second generation", "8  the checkpoint that the resumed run wrote"):
        story.second_generation = run_apr(["inspect", newest, "--json"], story.directory).document()
        preflight = run_apr(["preflight", newest, "--tokenizer", TOKENIZER, "--json"], story.directory)
        story.lineage = run_apr(["lineage", newest, "--search", ".", "--json"], story.directory).document()
    expectations = story.expectations
    expectations.expect_equal(
        "the second generation is stamped right", MODEL_CLASS, story.second_generation["metadata"]["hf_architecture"]
    )
    shown = [each["class_name"] for each in story.second_generation["verdict"]["candidates"]]
    expectations.expect("its tensors are those of that class", MODEL_CLASS in shown, expected=MODEL_CLASS, found=shown)
    expectations.expect_equal("it would be accepted by the next run", 0, preflight.exit_code)
    expectations.expect("its lineage is verified", story.lineage["is_complete"], expected=True, found=story.lineage)


def stored_digest(path: Path) -> str:
    """The weights digest of the checkpoint at `path`, computed from the bytes on disk."""
    with open_checkpoint(path) as checkpoint:
        return weights_digest(
            TensorDigest(entry.name, entry.dtype, entry.shape, blake3_hex(entry.read_bytes()))
            for entry in checkpoint.tensors.values()
        )
