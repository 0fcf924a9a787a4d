"""Stop Lightning's `fit` before the first step unless the named weights are resident.

Run it: python examples/lightning_callback.py path/to/model   (pip install 'apr[lightning]')
"""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
from transformers import AutoModelForCausalLM

import apr
import apr.lightning


class Module(pl.LightningModule):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-5)


def fit(model, source: str) -> apr.lightning.VerifyCallback:
    ids = torch.arange(1, 17).repeat(4, 1)
    loader = torch.utils.data.DataLoader([{"input_ids": row, "labels": row} for row in ids], batch_size=2)
    callback = apr.lightning.VerifyCallback(source)  # the attribute `model` of the module holds the weights
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback])
    trainer.fit(Module(model), loader)
    return callback


def main(source: str) -> int:
    try:
        start = fit(AutoModelForCausalLM.from_pretrained(source), source).start
    except apr.RefusedError as refusal:
        print(refusal)
        return 5
    print(f"trained from {start.receipt.weights_digest}")
    for finding in start.findings:
        print(f"{finding.status.value}: {finding.message}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
