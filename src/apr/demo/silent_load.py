"""What everybody else does with a mislabelled checkpoint: load it, and say nothing."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class SilentLoad:
    """How the load went that nobody stopped. loaded_as: the class built. missing: parameters left at random values.

    unused: tensors of the file that the model never asked for. validation_loss: on the set named by its hash.
    """

    loaded_as: str
    loader: str
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


def load_silently(directory: Path, dataset: Path, size: DemoSize, seed: int) -> SilentLoad:
    """`from_pretrained` on `directory` as anybody calls it, then the loss that a run of `size` would validate with."""
    require_zoo()
    import torch
    import transformers

    with quiet_zoo():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    # The validation set of a corpus that was split by document depends on the corpus and the length alone.
    data = open_data(dataset, sequence_length=size.sequence_length, seed=seed, fingerprint="")
    loss = TokenLoss(model, model.config.vocab_size)
    measured = evaluate(model, loss, data.validation, step=0, epoch=None, should_stop=lambda: False)
    with open_checkpoint(directory) as checkpoint:
        stored_tensors = len(checkpoint.tensors)
    return SilentLoad(
        loaded_as=type(model).__name__,
        loader=f"transformers {transformers.__version__}",
        missing=tuple(sorted(info["missing_keys"])),
        unused=tuple(sorted(info["unexpected_keys"])),
        stored_tensors=stored_tensors,
        validation_loss=measured.val_loss,
        validation_set_hash=measured.validation_set_hash,
    )
