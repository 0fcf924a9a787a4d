"""Refuse a wrong checkpoint in a training script of your own: examine, load with the receipt, train on.

Run it: python examples/guard_your_own_script.py path/to/model
"""

from __future__ import annotations

import sys
from pathlib import Path

from apr.errors import RefusedError
from apr.gates.road import deepen, examine, load, refuse_unless_accepted


def load_or_refuse(path: Path):
    """The model in `path` with the proof that its weights are those of the file; RefusedError names what is wrong."""
    examination = deepen(examine(path))  # headers first, then every byte
    refuse_unless_accepted(examination)
    loaded = load(examination)
    return loaded.model, loaded.receipt


def main() -> int:
    try:
        model, receipt = load_or_refuse(Path(sys.argv[1]))
    except RefusedError as refusal:
        print(refusal)
        for finding in refusal.findings:
            print(f"{finding['id']}: {finding['message']}\n  next: {finding['remedy']}")
        return 5
    print(f"{type(model).__name__}: {receipt.tensors_written} tensors, {receipt.bytes_read} bytes")
    print(f"weights {receipt.weights_digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
