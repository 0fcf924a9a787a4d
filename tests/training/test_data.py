"""Windows and their order: pure functions, everything once a pass, held-out ones never."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apr.errors import RefusedError
from apr.training.data import RunData, open_data
from apr.training.permutation import Permutation
from apr.training.windows import WindowedShards, find_shards


@given(count=st.integers(1, 3000), key=st.text(max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_permutation_gives_every_item_once(count: int, key: str) -> None:
    assert sorted(Permutation(count, key).at(numpy.arange(count))) == list(range(count))


def test_a_permutation_is_fixed_for_ever_and_spreads_neighbours() -> None:
    order = Permutation(10, "apr").at(numpy.arange(10)).tolist()
    assert order == [6, 5, 1, 8, 3, 9, 4, 0, 7, 2]
    items = Permutation(1 << 40, "apr").at(numpy.arange(1000))
    assert abs(numpy.median(items) / (1 << 39) - 1) < 0.2
    assert numpy.abs(numpy.diff(items)).min() > 1


def make(folder: Path, *sizes: int) -> Path:
    folder.mkdir(exist_ok=True)
    start = 0
    for number, size in enumerate(sizes):
        numpy.arange(start, start + size, dtype="<u4").tofile(folder / f"shard-{number:05d}.bin")
        start += size
    return folder


def test_windows_never_cross_shards_and_leave_the_rest_out(tmp_path: Path) -> None:
    windows = WindowedShards(find_shards(make(tmp_path / "d", 25, 9, 30)), sequence_length=9)
    assert len(windows) == 2 + 0 + 3
    rows = windows.read(numpy.arange(5))
    assert rows[:, 0].tolist() == [0, 10, 34, 44, 54]
    assert (numpy.diff(rows, axis=1) == 1).all()


def data(folder: Path, **changes: object) -> RunData:
    arguments: dict[str, object] = {"sequence_length": 9, "seed": 1, "fingerprint": "f", **changes}
    return open_data(folder, **arguments)  # type: ignore[arg-type]


@pytest.mark.planted_defect("INV-TRAIN-EXHAUST")
@pytest.mark.falsifies("FALSIFY-TRAIN-EXHAUST")
def test_held_out_windows_never_come_up_however_often_the_data_starts_over(tmp_path: Path) -> None:
    run = data(make(tmp_path / "d", 1000), validation_windows=7)
    held_out = set(run.validation.indices.tolist())
    assert len(held_out) == 7
    passes = [
        [int(index) for step in range(first, first + 31) for index in run.training.batch_indices(step, 3)]
        for first in (1, 32, 63)
    ]
    for seen in passes:
        assert sorted(seen) == sorted(set(range(100)) - held_out)
    assert passes[0] != passes[1] != passes[2]


def test_the_order_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", 1000)
    first, again, other = data(folder), data(folder), data(folder, seed=2)
    assert (first.training.batch(17, 4) == again.training.batch(17, 4)).all()
    assert not (first.training.batch_indices(1, 50) == other.training.batch_indices(1, 50)).all()
    four, two = first.training.batch_indices(3, 4), first.training.batch_indices(6, 2)
    assert four[2:].tolist() == two.tolist()


def test_the_validation_set_is_the_same_for_every_seed_and_named_by_its_content(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", 1000)
    assert data(folder).validation.hash == data(folder, seed=9).validation.hash
    assert data(folder).validation.hash != data(folder, validation_windows=3).validation.hash
    assert data(folder).validation.hash != data(folder, sequence_length=8).validation.hash


def test_a_validation_side_is_used_and_nothing_is_set_aside(shards: Path) -> None:
    run = data(shards, sequence_length=32, validation_windows=5)
    assert run.is_split_by_document
    assert len(run.training) == len(run.training.windows)
    assert len(run.validation) == 5
    assert "validation" in run.validation.origin


@pytest.mark.planted_defect("INV-TRAIN-EXHAUST")
@pytest.mark.parametrize("sizes", [(5,), (9, 9, 9), (10,)])
def test_data_without_a_window_on_each_side_is_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="does not fill one window") as caught:
        data(make(tmp_path / "d", *sizes))
    assert caught.value.invariant == "INV-TRAIN-EXHAUST"
