"""How far below ln(vocabulary) a model that knows nothing can fall by chance, and how soon training leaves that reach.

For families, widths, vocabularies and seeds: the loss of a freshly initialised model on real text it was not made for,
minus ln(vocabulary). What lies below zero is luck, and what INV-INIT-LOSS-001 must not take for knowledge. Then one
small Llama is trained, and the same figure is printed after so many updates: what a margin would refuse. The text is
that of the demo, the sources of the standard library. Prints the lowest figure, and the margin in force.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from typing import Any

from common import print_environment

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "gpt2", "gpt_neox", "opt")
# (vocabulary, width, seeds, tokens): many small ones, as luck has more room there; a few of the shape people use.
SHAPES = (
    (320, 64, 8, 16_384),
    (320, 64, 8, 1_024),
    (2048, 64, 4, 8_192),
    (2048, 256, 2, 8_192),
    (16_384, 256, 1, 4_096),
    (16_384, 384, 1, 2_048),
    (16_384, 512, 1, 2_048),
    (16_384, 1024, 1, 2_048),
)
ROW = 128
TRAINED_UPDATES = (0, 1, 2, 3, 5, 10, 20, 50, 100)


def token_rows(vocabulary: int, tokens: int) -> tuple[Any, Any]:
    """Rows of ids of real text (training, held out), of a byte-level BPE of that size trained on the training part."""
    import torch
    from tokenizers import ByteLevelBPETokenizer

    from apr.demo.text import standard_library_files

    files = standard_library_files(3_000_000)
    held_out, training = files[::8], [file for index, file in enumerate(files) if index % 8]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([str(file) for file in training], vocab_size=vocabulary, show_progress=False)

    def rows(paths: Any, count: int) -> Any:
        ids: list[int] = []
        for path in paths:
            ids += tokenizer.encode(path.read_text(encoding="utf-8", errors="replace")).ids
            if len(ids) >= count:
                break
        usable = min(len(ids), count) // ROW * ROW
        return torch.tensor(ids[:usable]).view(-1, ROW)

    return rows(training, 400_000), rows(held_out, tokens)


def unigram_loss(training: Any, held_out: Any, vocabulary: int) -> float:
    """The loss on `held_out` of knowing nothing but how often each token came in `training`."""
    import torch

    counts = torch.bincount(training.flatten(), minlength=vocabulary).double() + 1
    return float(-(counts / counts.sum()).log()[held_out.flatten()].mean())


def make_model(model_type: str, vocabulary: int, width: int, seed: int, *, tied: bool) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": vocabulary, "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 0}
    if model_type == "gpt2":
        sizes: dict[str, Any] = {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": 256}
    else:
        sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 3 * width, "ffn_dim": 3 * width, "word_embed_proj_dim": width}
        sizes |= {"head_dim": width // 4, "max_position_embeddings": 256, "pad_token_id": 0}
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **common, **sizes)).eval()


def loss_of(model: Any, rows: Any) -> float:
    import torch

    with torch.no_grad():
        parts = [float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(16)]
    return sum(parts) / len(rows)


def trained_figures(training: Any, held_out: Any, vocabulary: int, learning_rate: float) -> dict[int, float]:
    """Loss minus ln(vocabulary) of one small Llama after so many updates of 16 rows, warmed up over 10."""
    import torch

    model = make_model("llama", vocabulary, 64, 0, tied=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    found = {}
    for update in range(max(TRAINED_UPDATES) + 1):
        if update in TRAINED_UPDATES:
            found[update] = loss_of(model.eval(), held_out) - math.log(vocabulary)
            model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (update + 1) / 10)
        batch = training[(update * 16) % len(training) :][:16]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, help="seeds for every shape (default: as the table of shapes says)")
    parser.add_argument("--widths", nargs="*", type=int, default=[], help="only shapes of these widths")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    arguments = parser.parse_args()
    from apr.gates.step0_loss import SMALLEST_GAIN
    from apr.loading.quiet import quiet_zoo

    print_environment("torch", "transformers", "tokenizers")
    lowest: dict[str, float] = defaultdict(lambda: math.inf)
    shapes = [shape for shape in SHAPES if not arguments.widths or shape[1] in arguments.widths]
    with quiet_zoo():
        for vocabulary, width, seeds, tokens in shapes:
            training, held_out = token_rows(vocabulary, tokens)
            figures = []
            for family in arguments.families:
                for tied in (False, True):
                    for seed in range(arguments.seeds or seeds):
                        model = make_model(family, vocabulary, width, seed, tied=tied)
                        figure = loss_of(model, held_out) - math.log(vocabulary)
                        figures.append(figure)
                        lowest[family] = min(lowest[family], figure / math.log(vocabulary))
            frequencies = unigram_loss(training, held_out, vocabulary) / math.log(vocabulary) - 1
            below = sum(figure < 0 for figure in figures)
            print(
                f"vocabulary {vocabulary:,}, width {width}, {held_out.numel():,} tokens: {len(figures)} fresh models, "
                f"{below} below ln(vocabulary); loss - ln(vocabulary) from {min(figures):+.4f} to {max(figures):+.4f} "
                f"({100 * min(figures) / math.log(vocabulary):+.2f} % of it; token frequencies alone: "
                f"{100 * frequencies:+.1f} %)",
                flush=True,
            )
        for family, figure in lowest.items():
            print(f"  lowest of {family}: {100 * figure:+.2f} % of ln(vocabulary)")
        for learning_rate in (3e-4, 5e-5) if not arguments.widths else ():
            training, held_out = token_rows(2048, 16_384)
            found = trained_figures(training, held_out, 2048, learning_rate)
            shown = ", ".join(f"{update}: {figure:+.3f}" for update, figure in found.items())
            print(f"a Llama of width 64 after so many updates at lr {learning_rate:g}: {shown}")
    worst = 100 * min(lowest.values())
    print(f"margin in force: {100 * SMALLEST_GAIN:g} % of ln(vocabulary); lowest by chance: {worst:+.2f} %")
    return 0 if min(lowest.values()) > -SMALLEST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
