"""Is this PEFT adapter applied, and does it change anything? Ask its files, then the model.

Run it: python examples/adapter.py path/to/base path/to/adapter   (pip install 'apr[peft]')
"""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM

import apr


def main(base: str, adapter: str) -> int:
    for finding in apr.preflight(adapter).refusals:  # files alone, in milliseconds
        print(f"{finding.id}: {finding.message}")

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    try:
        receipt = apr.verify_adapter(model, adapter)
    except apr.RefusedError as refusal:
        print(refusal)
        return 5
    print(f"{receipt.tensors_written} adapter tensors are applied, active, and change the logits")
    print(f"over the base weights {apr.verify_loaded(model, base, adapter=adapter).weights_digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
