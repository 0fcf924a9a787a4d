"""`validate` finds every planted damage, and a clean twin passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.writing import tensor_from_bytes
from apr.quality.validation import CheckStatus, Validation, validate_checkpoint
from tests.quality.founding import write_founding_file


def validation_of(path: Path) -> Validation:
    with open_checkpoint(path) as checkpoint:
        return validate_checkpoint(checkpoint)


def statuses(validation: Validation) -> dict[str, CheckStatus]:
    return {check.id: check.status for check in validation.checks}


def write_tensors(path: Path, **tensors: np.ndarray) -> Path:
    written = [tensor_from_bytes(name, DType.F32, value.shape, value.astype("<f4")) for name, value in tensors.items()]
    write_apr2(path, metadata={"name": "x"}, tensors=written)
    return path


def test_a_clean_file_passes_every_check_that_can_run(tmp_path: Path) -> None:
    found = statuses(validation_of(write_founding_file(tmp_path / "x.apr")))
    assert found.pop("weights-digest") is CheckStatus.SKIP
    assert set(found.values()) == {CheckStatus.PASS}


@pytest.mark.parametrize("from_end", [1, 5, 70, 3000])
def test_a_flipped_byte_anywhere_in_the_data_is_damage(tmp_path: Path, from_end: int) -> None:
    path = write_founding_file(tmp_path / "x.apr")
    data = bytearray(path.read_bytes())
    data[-from_end] ^= 1
    path.write_bytes(data)
    validation = validation_of(path)
    assert statuses(validation)["checksums"] is CheckStatus.FAIL
    assert validation.is_damaged()


def test_values_that_are_not_finite_are_counted_by_kind(tmp_path: Path) -> None:
    values = np.ones((4, 4))
    values[0, :2] = np.nan
    values[1, :3] = np.inf
    values[2, 2] = 7
    validation = validation_of(write_tensors(tmp_path / "x.apr", a=values, b=np.arange(4.0)))
    assert statuses(validation)["finite"] is CheckStatus.FAIL
    assert (validation.nan_count, validation.inf_count, validation.failed_tensors) == (2, 3, ("a",))
    assert not validation.is_damaged()


def test_empty_matrices_warn_and_fail_only_when_strict(tmp_path: Path) -> None:
    path = write_tensors(
        tmp_path / "x.apr", zero=np.zeros((3, 3)), same=np.full((3, 3), 2.0), bias=np.zeros(3), norm=np.ones(3)
    )
    validation = validation_of(path)
    found = statuses(validation)
    assert (found["all-zero"], found["constant"]) == (CheckStatus.WARN, CheckStatus.WARN)
    assert [check.detail for check in validation.checks if check.id in ("all-zero", "constant")] == ["zero", "same"]
    assert validation.all_zero_tensors == ("bias", "zero")
    assert not validation.failures(strict=False)
    assert len(validation.failures(strict=True)) == 2
