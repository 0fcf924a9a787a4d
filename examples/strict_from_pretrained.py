"""Make every `from_pretrained` of a block strict, in code that you did not write.

Run it: python examples/strict_from_pretrained.py path/to/model
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import apr
import apr.hf


def somebody_elses_code(path: str):
    return AutoModelForCausalLM.from_pretrained(path)


def main(path: str) -> int:
    try:
        with apr.hf.strict():
            model = somebody_elses_code(path)
    except apr.RefusedError as refusal:
        print(refusal)
        return 5
    print(f"{type(model).__name__} holds what {path} names")

    new_head = {"score.weight": "the head that this run trains"}
    if not model.config.tie_word_embeddings:
        new_head["lm_head.weight"] = "a classifier predicts no tokens"
    classifier = apr.hf.from_pretrained(AutoModelForSequenceClassification, path, allowed_tensors=new_head)
    print(f"{type(classifier).__name__}: all but {', '.join(new_head)} is proven")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
