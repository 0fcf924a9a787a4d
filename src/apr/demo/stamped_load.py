"""What a loader that believes the label does with a mislabelled checkpoint: it loads it, and goes on."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apr.demo.size import DemoSize
from apr.formats.hf.write import write_hf_directory
from apr.formats.registry import open_checkpoint
from apr.formats.writing import copy_of
from apr.loading.quiet import quiet_zoo
from apr.loading.zoo import require_zoo
from apr.training.data import open_data
from apr.training.evaluation import evaluate
from apr.training.token_loss import TokenLoss

COLOR_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class StampedLoad:
    """How the load went that nothing stopped. loaded_as: the class built. missing: parameters left at random values.

    said: what the loader logged at its default verbosity, without terminal colors. unused: tensors of the file that
    the model never asked for. validation_loss: on the set named by its hash.
    """

    loaded_as: str
    loader: str
    said: str
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    stored_tensors: int
    validation_loss: float
    validation_set_hash: str


def write_as_stamped(mislabelled: Path, directory: Path) -> None:
    """Write the Hugging Face directory that says what `mislabelled` says: its config and its tensors, unchanged."""
    with open_checkpoint(mislabelled) as checkpoint:
        write_hf_directory(
            directory,
            config=dict(checkpoint.config or {}),
            tensors=[copy_of(entry) for entry in checkpoint.tensors.values()],
        )


def load_as_stamped(directory: Path, dataset: Path, size: DemoSize, seed: int) -> StampedLoad:
    """`from_pretrained` on `directory` as anybody calls it, then the loss that a run of `size` would validate with."""
    require_zoo()
    import torch
    import transformers

    with _overheard_zoo() as said:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    # The validation set of a corpus that was split by document depends on the corpus and the length alone.
    data = open_data(dataset, sequence_length=size.sequence_length, seed=seed, fingerprint="")
    loss = TokenLoss(model, model.config.vocab_size)
    measured = evaluate(model, loss, data.validation, step=0, epoch=None, should_stop=lambda: False)
    with open_checkpoint(directory) as checkpoint:
        stored_tensors = len(checkpoint.tensors)
    return StampedLoad(
        loaded_as=type(model).__name__,
        loader=f"transformers {transformers.__version__}",
        said="\n".join(said),
        missing=tuple(sorted(info["missing_keys"])),
        unused=tuple(sorted(info["unexpected_keys"])),
        stored_tensors=stored_tensors,
        validation_loss=measured.val_loss,
        validation_set_hash=measured.validation_set_hash,
    )


@contextmanager
def _overheard_zoo() -> Iterator[list[str]]:
    """Within the block, transformers logs at its default verbosity, into the list that is given instead of stderr."""
    from transformers.utils import logging as zoo_logging

    said: list[str] = []
    with quiet_zoo():
        handler = _Listener(said)
        zoo_logging.disable_default_handler()
        zoo_logging.add_handler(handler)
        zoo_logging.set_verbosity_warning()
        try:
            yield said
        finally:
            zoo_logging.remove_handler(handler)
            zoo_logging.enable_default_handler()


class _Listener(logging.Handler):
    """Keeps the text of each record, without the escape sequences that color it."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(COLOR_SEQUENCE.sub("", record.getMessage()).expandtabs().strip())
