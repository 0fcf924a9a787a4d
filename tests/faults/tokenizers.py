"""Tiny tokenizers as files."""

from __future__ import annotations

from functools import cache

_TEXT = [
    "the quick brown fox jumps over the lazy dog and the other quick foxes jump again",
    "pack my box with five",
] * 20


@cache
def _files(size: int, shuffled: bool, prefix_space: bool, lowercase: bool) -> bytes:
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=min(size, 300), initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(_TEXT, trainer)
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    for number in range(len(vocabulary), size):
        vocabulary[f"<filler {number}>"] = number
    if shuffled:
        names = sorted(vocabulary)
        document["model"]["vocab"] = {name: len(names) - 1 - at for at, name in enumerate(names)}
    return json.dumps(document).encode()


def tokenizer_files(
    size: int, *, shuffled: bool = False, prefix_space: bool = False, lowercase: bool = False
) -> dict[str, bytes]:
    """`tokenizer.json` of a byte-level BPE with `size` entries."""
    return {"tokenizer.json": _files(size, shuffled, prefix_space, lowercase)}
