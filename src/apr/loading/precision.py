"""Float32 arithmetic as float32, whatever shortcut a training script has switched on for its speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_float32() -> Iterator[None]:
    """Within the block float32 products and convolutions on a GPU keep all their bits; afterwards all is as before.

    TensorFloat-32 rounds their factors to ten bits, a hundred times the noise that a float32 probe allows
    (docs/probe.md). It is set in one of two ways, `set_float32_matmul_precision` or `fp32_precision`, and reading by
    the one what was set by the other raises RuntimeError.
    """
    import torch

    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    try:
        older_setting = torch.get_float32_matmul_precision()
    except RuntimeError:
        older_setting = None
    product_setting, convolution_setting = products.fp32_precision, convolutions.fp32_precision
    torch.set_float32_matmul_precision("highest")
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older_setting is not None:
            torch.set_float32_matmul_precision(older_setting)
        products.fp32_precision, convolutions.fp32_precision = product_setting, convolution_setting
