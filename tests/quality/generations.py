"""Three generations of tiny checkpoints whose records name their parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.recorded import RECORDED_METADATA_KEY, Recorded, TrainingRecord
from apr.formats.writing import tensor_from_bytes
from apr.loading.digest import TensorDigest, weights_digest
from apr.storage.checksums import blake3_hex


def write_generation(path: Path, value: float, *, parent: tuple[str, str] | None, **training: Any) -> str:
    """A one-tensor checkpoint with its full record; gives its weights digest."""
    data = np.full((4, 4), value, dtype="<f4").tobytes()
    digest = blake3_hex(data)
    whole = weights_digest([TensorDigest("w", DType.F32, (4, 4), digest)])
    parent_digest, parent_path = parent or (None, None)
    record = TrainingRecord(parent_digest=parent_digest, parent_path=parent_path, **training)
    recorded = Recorded(training=record, tensor_digests={"w": digest}, weights_digest=whole)
    write_apr2(
        path,
        metadata={"name": "x", RECORDED_METADATA_KEY: recorded.to_json()},
        tensors=[tensor_from_bytes("w", DType.F32, (4, 4), data)],
    )
    return whole


def write_family(folder: Path) -> Path:
    """Three generations in `folder`, which is returned: a.apr (origin), b.apr, c.apr."""
    a = write_generation(folder / "a.apr", 1.0, parent=None, step=100, validation_loss=5.0)
    b = write_generation(folder / "b.apr", 2.0, parent=(a, str(folder / "a.apr")), step=50)
    write_generation(folder / "c.apr", 3.0, parent=(b, "b.apr"))
    return folder
