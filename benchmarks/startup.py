"""How fast the light commands start, against `python -c "import click"`, measured in turn in one run.

Prints the wall time of each command (best and median of the rounds) and its ratio to the peer. Targets: `apr --help`
and `apr inspect` on a 1 GB file at most 3 times the peer; header `preflight` of a 1,000-tensor file under 300 ms. Exit
1 when a target is missed by the best of the rounds (the median also says how busy the machine was).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from apr.formats.apr2.write import write_apr2
from apr.formats.dtypes import DType
from apr.formats.writing import TensorToWrite
from common import in_turn, print_environment, run_process

ROUNDS = 25
MOST_RATIO = 3.0
MOST_PREFLIGHT_S = 0.300
PEER = "import click"
ZEROS = bytes(4 << 20)


def zeros(size_bytes: int) -> list[memoryview]:
    """`size_bytes` of zeros in chunks that share one buffer."""
    view = memoryview(ZEROS)
    whole, rest = divmod(size_bytes, len(ZEROS))
    return [view] * whole + [view[:rest]]


def write_qwen2(path: Path, *, hidden: int, layers: int, ffn: int, vocabulary: int) -> int:
    """A Qwen2 file of zeros in bf16 with honest stamps and typed dimensions; gives its number of tensors."""
    heads, kv_heads = hidden // 64, 2
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (vocabulary, hidden)),
        ("lm_head.weight", (vocabulary, hidden)),
        ("model.norm.weight", (hidden,)),
    ]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", 64 * kv_heads), ("v", 64 * kv_heads)):
            shapes += [(f"{prefix}self_attn.{name}_proj.weight", (rows, hidden))]
            shapes += [(f"{prefix}self_attn.{name}_proj.bias", (rows,))]
        shapes += [(f"{prefix}self_attn.o_proj.weight", (hidden, hidden))]
        shapes += [(f"{prefix}mlp.{name}_proj.weight", (ffn, hidden)) for name in ("gate", "up")]
        shapes += [(f"{prefix}mlp.down_proj.weight", (hidden, ffn))]
        shapes += [(f"{prefix}{name}.weight", (hidden,)) for name in ("input_layernorm", "post_attention_layernorm")]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "use_sliding_window": False,
    }
    metadata = {
        "architecture": "qwen2",
        "hf_architecture": "Qwen2ForCausalLM",
        "hf_model_type": "qwen2",
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "vocab_size": vocabulary,
        "intermediate_size": ffn,
        "hf_config": config,
    }
    tensors = [_zero_tensor(name, shape) for name, shape in shapes]
    write_apr2(path, metadata=metadata, tensors=tensors)
    return len(tensors)


def _zero_tensor(name: str, shape: tuple[int, ...]) -> TensorToWrite:
    size_bytes = 2
    for length in shape:
        size_bytes *= length
    return TensorToWrite(name, DType.BF16, shape, lambda: zeros(size_bytes))


def main() -> int:
    print_environment("apr", "click")
    apr = str(Path(sys.executable).with_name("apr"))
    with tempfile.TemporaryDirectory() as folder:
        large, many = Path(folder) / "large.apr", Path(folder) / "many.apr"
        write_qwen2(large, hidden=896, layers=24, ffn=4864, vocabulary=151936 - 20000)
        count = write_qwen2(many, hidden=64, layers=84, ffn=64, vocabulary=64)
        commands = {
            PEER: [sys.executable, "-c", PEER],
            "apr --help": [apr, "--help"],
            f"apr inspect ({large.stat().st_size / 1e9:.2f} GB)": [apr, "inspect", str(large)],
            f"apr inspect --quality ({large.stat().st_size / 1e9:.2f} GB)": [apr, "inspect", "--quality", str(large)],
            f"apr preflight ({count} tensors)": [apr, "preflight", str(many)],
        }
        sides = {name: (lambda command=command: run_process(command).wall_s) for name, command in commands.items()}
        walls = in_turn(sides, ROUNDS)
    peer_s = min(walls[PEER])
    misses = []
    for name, seconds in walls.items():
        best_s, ratio = min(seconds), min(seconds) / peer_s
        median_ratio = statistics.median(seconds) / statistics.median(walls[PEER])
        print(
            f"{name:<36} best {best_s * 1000:6.0f} ms  median {statistics.median(seconds) * 1000:6.0f} ms"
            f"  ratio {ratio:4.2f} (medians {median_ratio:4.2f})"
        )
        if ("--help" in name or "inspect" in name) and ratio > MOST_RATIO:
            misses.append(f"{name}: {ratio:.2f} times the peer, at most {MOST_RATIO}")
        if "preflight" in name and best_s > MOST_PREFLIGHT_S:
            misses.append(f"{name}: {best_s * 1000:.0f} ms, at most {MOST_PREFLIGHT_S * 1000:.0f}")
    print("targets met" if not misses else "\n".join(misses))
    return bool(misses)


if __name__ == "__main__":
    sys.exit(main())
