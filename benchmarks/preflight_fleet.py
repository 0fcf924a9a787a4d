"""What preflight costs: one large header, a fleet of small ones, and every byte beside sha256.

Prints hardware, versions, and
- `apr preflight` of one checkpoint with 1,000 tensors, from headers, as a process (allowed: 300 ms wall, no torch),
- `apr preflight` of 300 checkpoints with 300 tensors each (allowed: 6 s on two cores),
- `apr preflight --deep` of one large file beside `sha256sum` and beside Python's hashlib on the same file, in turn,
  with the peak memory of each (allowed: as fast as both, constant memory).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from common import in_turn, median_ratio, print_environment, run_process, summary

HASHLIB = """
import hashlib, sys
with open(sys.argv[1], 'rb', buffering=0) as file:
    print(hashlib.file_digest(file, 'sha256').hexdigest())
"""

TORCH_SEEN = """
import runpy, sys
sys.argv = ['apr', 'preflight', sys.argv[1]]
try:
    runpy.run_module('apr', run_name='__main__')
except SystemExit:
    pass
print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)
"""


def llama(layers: int, hidden: int, vocabulary: int) -> tuple[dict[str, object], dict[str, tuple[int, ...]]]:
    """Config and shapes of an untied Llama: 9 tensors a layer and 3 more."""
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        place = f"model.layers.{layer}."
        for name in "qkvo":
            shapes[f"{place}self_attn.{name}_proj.weight"] = (hidden, hidden)
        shapes[f"{place}mlp.gate_proj.weight"] = (2 * hidden, hidden)
        shapes[f"{place}mlp.up_proj.weight"] = (2 * hidden, hidden)
        shapes[f"{place}mlp.down_proj.weight"] = (hidden, 2 * hidden)
        shapes[f"{place}input_layernorm.weight"] = (hidden,)
        shapes[f"{place}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return config, shapes


def write_checkpoint(directory: Path, layers: int, hidden: int = 8, vocabulary: int = 32) -> int:
    """A checkpoint of normal bf16 values; the count of its tensors."""
    import numpy as np

    config, shapes = llama(layers, hidden, vocabulary)
    generator = np.random.default_rng(0)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = generator.standard_normal(shape, dtype=np.float32) * 0.02 + (1.0 if "norm" in name else 0.0)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return len(shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the file that is read deeply")
    arguments = parser.parse_args()
    print_environment("apr", "numpy", "blake3")
    apr = [str(Path(sys.executable).with_name("apr")), "preflight"]
    with tempfile.TemporaryDirectory() as scratch:
        one_header(apr, Path(scratch), arguments.rounds)
        fleet(apr, Path(scratch), arguments.rounds)
        every_byte(apr, Path(scratch), arguments.rounds, arguments.gigabytes)


def one_header(apr: list[str], scratch: Path, rounds: int) -> None:
    path = scratch / "large-header"
    count = write_checkpoint(path, layers=111)
    seen = run_process([sys.executable, "-c", TORCH_SEEN, str(path)]).stderr.split()[-2:]

    def ask() -> float:
        done = run_process([*apr, str(path)])
        assert done.exit_code == 0, done.stdout
        return done.wall_s

    figures = in_turn({"preflight": ask}, rounds)
    print(f"{count} tensors, headers: {summary(figures['preflight'])}; allowed 0.300 s; torch imported: {seen[0]}")


def fleet(apr: list[str], scratch: Path, rounds: int) -> None:
    home = scratch / "fleet"
    home.mkdir()
    count = write_checkpoint(home / "000", layers=33)
    for number in range(1, 300):
        place = home / f"{number:03d}"
        place.mkdir()
        shutil.copy(home / "000" / "config.json", place)
        os.link(home / "000" / "model.safetensors", place / "model.safetensors")

    def ask() -> float:
        done = run_process([*apr, str(home / "*"), "--json"])
        assert done.exit_code == 0, done.stdout[-500:]
        assert len(done.stdout.splitlines()) == 300
        return done.wall_s

    figures = in_turn({"fleet": ask}, rounds)
    print(f"300 checkpoints of {count} tensors, headers: {summary(figures['fleet'])}; allowed 6 s on two cores")


def every_byte(apr: list[str], scratch: Path, rounds: int, gigabytes: float) -> None:
    path = scratch / "large"
    hidden = 1024
    layers = max(1, round(gigabytes * 1e9 / (2 * 10 * hidden * hidden)))
    write_checkpoint(path, layers=layers, hidden=hidden, vocabulary=8192)
    weights = path / "model.safetensors"
    peaks: dict[str, int] = {}

    def measure(name: str, command: list[str]) -> float:
        done = run_process(command)
        assert done.exit_code == 0, done.stdout + done.stderr
        peaks[name] = done.peak_rss_bytes
        return done.wall_s

    commands = {
        "apr preflight --deep": [*apr, str(path), "--deep"],
        "sha256sum": ["sha256sum", str(weights)],
        "hashlib sha256": [sys.executable, "-c", HASHLIB, str(weights)],
    }
    sides = {name: (lambda name=name, command=command: measure(name, command)) for name, command in commands.items()}
    figures = in_turn(sides, rounds)
    size = weights.stat().st_size
    print(f"every byte of {size / 1e9:.2f} GB:")
    for name, values in figures.items():
        print(f"  {name:<22} {summary(values)}, peak {peaks[name] / 1e6:.0f} MB")
    ours = figures["apr preflight --deep"]
    for name in ("sha256sum", "hashlib sha256"):
        print(f"  ours over {name}: {median_ratio(ours, figures[name]):.2f} (allowed 1.00)")


if __name__ == "__main__":
    main()
