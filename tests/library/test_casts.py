"""Which casts a resident tensor may have gone through."""

from __future__ import annotations

import pytest

from apr.errors import UsageError
from apr.formats.dtypes import DType
from apr.library.casts import declared_dtypes, is_declared_cast, one_dtype
from apr.loading.casts import LOSSLESS
from apr.loading.torch_dtypes import to_torch_dtype


@pytest.mark.parametrize(
    ("stored", "resident"), [(one, other) for one, wider in LOSSLESS.items() for other in sorted(wider)]
)
def test_a_cast_called_lossless_gives_every_stored_value_back(stored: DType, resident: DType) -> None:
    import torch

    width = torch.empty(0, dtype=to_torch_dtype(stored)).element_size()
    codes = torch.arange(1 << min(8 * width, 16), dtype=torch.int32)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[width]
    values = (codes << 16 if width == 4 else codes).to(integers).view(to_torch_dtype(stored))
    back = values.to(to_torch_dtype(resident)).to(to_torch_dtype(stored))
    finite = torch.isfinite(values.float())
    assert torch.equal(back.view(integers)[finite], values.view(integers)[finite])


@pytest.mark.parametrize(
    ("stored", "resident", "declared", "is_allowed"),
    [
        (DType.BF16, DType.BF16, (), True),
        (DType.BF16, DType.F32, (), True),
        (DType.BF16, DType.F16, (), False),
        (DType.F16, DType.BF16, (), False),
        (DType.F32, DType.BF16, (), False),
        (DType.F32, DType.BF16, (DType.BF16,), True),
        (DType.F32, DType.F16, (DType.BF16,), False),
        (DType.I64, DType.I32, (DType.I32,), False),
        (DType.I64, DType.F32, (DType.F32,), False),
    ],
)
def test_widening_is_free_and_rounding_has_to_be_declared(
    stored: DType, resident: DType, declared: tuple[DType, ...], is_allowed: bool
) -> None:
    assert is_declared_cast(stored, resident, frozenset(declared)) is is_allowed


def test_a_scaled_tensor_is_read_as_float32_and_rounded_only_as_declared() -> None:
    assert is_declared_cast(DType.F8_E4M3, DType.F32, frozenset(), has_scale=True)
    assert not is_declared_cast(DType.F8_E4M3, DType.BF16, frozenset(), has_scale=True)
    assert is_declared_cast(DType.F8_E4M3, DType.BF16, frozenset({DType.BF16}), has_scale=True)


def test_every_way_to_name_a_dtype_means_the_same() -> None:
    import torch

    for name in (torch.bfloat16, "bfloat16", "torch.bfloat16", DType.BF16, "BF16"):
        assert one_dtype(name) is DType.BF16
    assert declared_dtypes("auto") == declared_dtypes(None) == frozenset()
    assert declared_dtypes({"": "bfloat16", "vision": torch.float16}) == {DType.BF16, DType.F16}


def test_what_is_no_dtype_is_said_to_be_none() -> None:
    with pytest.raises(UsageError, match="this is no dtype"):
        one_dtype("bf17")
