"""Load a model with proof, or prove one that other code loaded.

Run it: python examples/verified_load.py path/to/model
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM

import apr


def main(path: str) -> int:
    try:
        model, receipt = apr.load_verified(AutoModelForCausalLM, path)
    except apr.RefusedError as refusal:
        print(refusal)  # every finding, and the next command
        return 5
    print(f"{type(model).__name__}: {receipt.tensors_written} tensors, weights {receipt.weights_digest}")

    theirs = AutoModelForCausalLM.from_pretrained(path)
    print(f"loaded by transformers, proven afterwards: {apr.verify_loaded(theirs, path).weights_digest}")

    theirs.get_output_embeddings().reset_parameters()  # what a careless hook does
    try:
        apr.verify_loaded(theirs, path)
    except apr.RefusedError as refusal:
        print(f"and after the hook: {refusal}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
