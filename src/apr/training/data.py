"""Which windows a run trains on, in which order, and which it only measures on.

Everything is a pure function of (dataset, sequence length, seed, step): nothing has to be stored to go on exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apr.errors import RefusedError
from apr.training.corpus_manifest import VALIDATION_FOLDER
from apr.training.permutation import Permutation
from apr.training.windows import Shard, WindowedShards, find_shards

if TYPE_CHECKING:
    import numpy

# Tokens a validation set holds unless the user says otherwise: enough for a standard error near 0.02 nats, few enough
# that evaluating half a billion parameters on two cores takes minutes.
VALIDATION_TOKENS = 16_384
LARGEST_HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class ValidationSet:
    """The exact windows a loss is measured on. origin: words for people; is_disjoint: by document, from training.

    hash: `blake3:<hex>` over the sequence length and the ids of all windows in order, so equal hashes mean that two
    losses may be compared.
    """

    windows: WindowedShards
    indices: numpy.ndarray
    origin: str
    hash: str

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, rows: int) -> Iterator[numpy.ndarray]:
        """All windows in order, `rows` at a time, int64 [rows, sequence_length + 1]."""
        for start in range(0, len(self.indices), rows):
            yield self.windows.read(self.indices[start : start + rows])


class TrainingWindows:
    """The windows that may be trained on, shuffled anew for each pass over them.

    held_out: sorted numbers of windows of the same shards that are kept for validation and never come up here.
    """

    def __init__(self, windows: WindowedShards, held_out: numpy.ndarray, seed: int, fingerprint: str) -> None:
        import numpy

        self.windows = windows
        self._held_out = held_out
        # held_out[i] - i: how many trainable windows lie before the i-th held-out one.
        self._trainable_before = held_out - numpy.arange(len(held_out), dtype=numpy.int64)
        self._key = f"{seed}\n{fingerprint}\n{windows.sequence_length}"
        self._permutations: dict[int, Permutation] = {}

    def __len__(self) -> int:
        return len(self.windows) - len(self._held_out)

    def batch_indices(self, step: int, batch_size: int) -> numpy.ndarray:
        """The window numbers of update `step` (from 1): positions (step-1)*batch_size onwards, pass after pass."""
        import numpy

        positions = numpy.arange((step - 1) * batch_size, step * batch_size, dtype=numpy.int64)
        items = numpy.empty_like(positions)
        for number in numpy.unique(positions // len(self)):
            chosen = positions // len(self) == number
            items[chosen] = self._permutation(int(number)).at(positions[chosen] % len(self))
        return items + numpy.searchsorted(self._trainable_before, items, side="right")

    def batch(self, step: int, batch_size: int) -> numpy.ndarray:
        """The windows of update `step`, int64 [batch_size, sequence_length + 1]."""
        return self.windows.read(self.batch_indices(step, batch_size))

    def steps_in_one_pass(self, batch_size: int) -> int:
        """Whole batches before any window comes up a second time."""
        return len(self) // batch_size

    def _permutation(self, number: int) -> Permutation:
        if number not in self._permutations:
            self._permutations = {number: Permutation(len(self), f"{self._key}\n{number}")}
        return self._permutations[number]


@dataclass(frozen=True)
class RunData:
    """Training windows and validation set of one run."""

    training: TrainingWindows
    validation: ValidationSet
    is_split_by_document: bool


def open_data(
    dataset: Path,
    *,
    sequence_length: int,
    seed: int,
    fingerprint: str,
    validation_shards: Path | None = None,
    validation_windows: int | None = None,
) -> RunData:
    """The data of a run over the shards of `dataset`.

    Validation comes from `validation_shards` if given, else from `dataset/validation` if it exists, else from windows
    of the dataset itself that are set aside, chosen by the fingerprint alone so that another seed measures on the
    same ones. Raises RefusedError (INV-TRAIN-EXHAUST) when a side does not fill a single window.
    """
    windows = WindowedShards(find_shards(dataset), sequence_length)
    wanted = validation_windows or max(1, -(-VALIDATION_TOKENS // sequence_length))
    separate = validation_shards
    if separate is None and (dataset / VALIDATION_FOLDER).is_dir():
        separate = dataset / VALIDATION_FOLDER
    if separate is not None:
        validation = _from_directory(separate, sequence_length, wanted)
        held_out = _no_windows()
    else:
        held_out = _held_out(windows, fingerprint, wanted)
        validation = _validation_set(windows, held_out, f"{len(held_out)} windows set aside from {dataset}")
    training = TrainingWindows(windows, held_out, seed, fingerprint)
    for side, place, shards, count in (
        ("training", dataset, windows.shards, len(training)),
        ("validation", separate or dataset, validation.windows.shards, len(validation)),
    ):
        if count == 0:
            raise _too_short(side, place, shards, windows.window_tokens)
    return RunData(training, validation, is_split_by_document=separate == dataset / VALIDATION_FOLDER)


def _too_short(side: str, place: Path, shards: Sequence[Shard], window_tokens: int) -> RefusedError:
    return RefusedError(
        f"the {side} data does not fill one window",
        where=str(place),
        expected=f"a shard of at least {window_tokens} tokens on each side, or two windows to share",
        found=f"{sum(shard.tokens for shard in shards)} tokens in {len(shards)} shards",
        remedy="encode more text, or lower --seq-length",
        invariant="INV-TRAIN-EXHAUST",
    )


def _from_directory(directory: Path, sequence_length: int, wanted: int) -> ValidationSet:
    windows = WindowedShards(find_shards(directory), sequence_length)
    if len(windows) == 0:
        return ValidationSet(windows, _no_windows(), str(directory), "")
    chosen = _spread(windows, f"validation\n{sequence_length}", min(wanted, len(windows)))
    return _validation_set(windows, chosen, f"{len(chosen)} windows of {directory}")


def _held_out(windows: WindowedShards, fingerprint: str, wanted: int) -> numpy.ndarray:
    if len(windows) < 2:
        return _no_windows()
    count = min(wanted, max(1, int(len(windows) * LARGEST_HELD_OUT_SHARE)))
    return _spread(windows, f"held out\n{fingerprint}\n{windows.sequence_length}", count)


def _spread(windows: WindowedShards, key: str, count: int) -> numpy.ndarray:
    import numpy

    chosen: numpy.ndarray = numpy.sort(Permutation(len(windows), key).at(numpy.arange(count, dtype=numpy.int64)))
    return chosen


def _no_windows() -> numpy.ndarray:
    import numpy

    return numpy.empty(0, dtype=numpy.int64)


def validation_hash(windows: WindowedShards, indices: numpy.ndarray) -> str:
    """`blake3:<hex>` over the sequence length and the ids of the windows `indices`, in order."""
    import numpy
    from blake3 import blake3

    digest = blake3(f"apr.validation-set/1\n{windows.sequence_length}\n".encode())
    for index in indices:
        digest.update(windows.read(numpy.asarray([index])).astype("<u4").tobytes())
    return "blake3:" + digest.hexdigest()


def _validation_set(windows: WindowedShards, indices: numpy.ndarray, origin: str) -> ValidationSet:
    return ValidationSet(windows, indices, origin, validation_hash(windows, indices))
