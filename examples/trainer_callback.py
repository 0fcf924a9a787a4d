"""Stop transformers' `Trainer` before the first step unless the named weights are resident.

Run it: python examples/trainer_callback.py path/to/model
"""

from __future__ import annotations

import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import apr
import apr.hf


def rows_of(model, count: int = 8, length: int = 16) -> list[dict[str, torch.Tensor]]:
    """What the model itself writes, in place of your data: it must do better than a uniform guess on that."""
    prompts = torch.arange(1, count + 1)[:, None]
    ids = model.generate(prompts, max_new_tokens=length, min_new_tokens=length, do_sample=False)
    return [{"input_ids": row, "labels": row} for row in ids]


def train(model, source: str, output: str) -> apr.hf.VerifyCallback:
    rows = rows_of(model)
    arguments = TrainingArguments(
        output_dir=output, max_steps=2, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    callback = apr.hf.VerifyCallback(source).attach(trainer)
    trainer.train()
    return callback


def main(source: str) -> int:
    with tempfile.TemporaryDirectory() as output:
        try:
            start = train(AutoModelForCausalLM.from_pretrained(source), source, output).start
        except apr.RefusedError as refusal:
            print(refusal)
            return 5
        print(f"trained from {start.receipt.weights_digest}, loss {start.loss:.4f} at step 0")

        changed = AutoModelForCausalLM.from_pretrained(source)
        next(changed.parameters()).data.mul_(1.001)
        try:
            train(changed, source, output)
        except apr.RefusedError as refusal:
            print(f"the changed model took no step: {refusal}")
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
