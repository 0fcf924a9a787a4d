"""Float32 stays float32 in the block, and the settings of the script around it are its own again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from apr.loading.precision import full_float32


def settings() -> dict[str, Any]:
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "set by fp32_precision"
    return {
        "older": older,
        "products": torch.backends.cuda.matmul.fp32_precision,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
    }


def nothing() -> None:
    pass


def older_way() -> None:
    torch.set_float32_matmul_precision("high")


def newer_way() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def everything() -> None:
    torch.backends.fp32_precision = "tf32"


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    found, everywhere = settings(), torch.backends.fp32_precision
    yield
    torch.set_float32_matmul_precision(found["older"])
    torch.backends.fp32_precision = everywhere
    torch.backends.cuda.matmul.fp32_precision = found["products"]
    torch.backends.cudnn.conv.fp32_precision = found["convolutions"]


@pytest.mark.parametrize("switch_on", [nothing, older_way, newer_way, everything])
def test_settings_are_full_inside_and_restored_after(switch_on: Callable[[], None]) -> None:
    switch_on()
    before = settings()
    with full_float32():
        assert settings() == {"older": "highest", "products": "ieee", "convolutions": "ieee"}
    assert settings() == before


def test_they_are_restored_after_an_error_too() -> None:
    older_way()
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert settings()["products"] == "tf32"
