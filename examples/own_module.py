"""Fill a torch module of your own from a checkpoint with other names: a bijection, whole, and read back.

Run it: python examples/own_module.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import apr


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.output = torch.nn.Linear(16, 100)


def to_own_name(name: str) -> str:
    """The checkpoint was saved from a wrapped model, and calls the embedding `wte`."""
    return name.removeprefix("module.").replace("wte", "embedding")


def main() -> int:
    trained = Encoder().state_dict()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trained.safetensors"
        save_file({f"module.{name.replace('embedding', 'wte')}": tensor for name, tensor in trained.items()}, path)

        try:
            apr.load_verified(Encoder(), path)
        except apr.RefusedError as refusal:
            print(refusal)

        model, receipt = apr.load_verified(Encoder, path, name_map=to_own_name)
    print(f"{receipt.tensors_written} tensors filled and read back")
    return 0 if all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
