"""What auditing a hub costs: bytes and requests a model, and the time of a fleet of addresses at a given latency.

Files of real sizes stand on the disk as headers with nothing behind them. A hub on this machine serves their ranges,
each answer after a latency, large files behind a redirect as hubs do. Prints hardware, versions, and for each model
what `apr preflight hf://...` fetched beside the size of the model; then the wall time of a fleet of addresses in one
command.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from common import in_turn, last_json, print_environment, run_process, summary

sys.path.insert(0, str(Path(__file__).parents[1]))

from apr.formats.dtypes import DType
from apr.formats.safetensors.header import encode_header
from tests.identity.headers import QWEN2_HALF_BILLION, stored_shapes
from tests.serving import ModelServer

SEVEN = {
    **QWEN2_HALF_BILLION,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "tie_word_embeddings": False,
}
SEVENTY = {
    **SEVEN,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29568,
}
MODELS = {"half": (QWEN2_HALF_BILLION, 1), "seven": (SEVEN, 4), "seventy": (SEVENTY, 37)}


def write_model(directory: Path, config: dict[str, object], shards: int) -> int:
    """A Qwen2 of `config` whose files hold their headers; the size that the files have for a reader."""
    directory.mkdir(parents=True)
    shapes = stored_shapes("Qwen2ForCausalLM", **config)
    names, weight_map, total_bytes = sorted(shapes), {}, 0
    for number in range(shards):
        part = names[len(names) * number // shards : len(names) * (number + 1) // shards]
        forms = {name: (DType.BF16, shapes[name], 2 * math.prod(shapes[name])) for name in part}
        file_name = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        weight_map.update(dict.fromkeys(part, file_name))
        head = encode_header(forms, {"format": "pt"})
        size_bytes = len(head) + sum(form[2] for form in forms.values())
        with (directory / file_name).open("wb") as file:
            file.write(head)
            file.truncate(size_bytes)
        total_bytes += size_bytes
    facts = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu", "use_sliding_window": False}
    stamps = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (directory / "config.json").write_text(json.dumps({**config, **facts, **stamps}))
    if shards > 1:
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return total_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--fleet", type=int, default=30, help="addresses in one command")
    arguments = parser.parse_args()
    print_environment("apr")
    print(f"every answer after {arguments.latency_ms:g} ms")
    apr = [str(Path(sys.executable).with_name("apr")), "preflight", "--json"]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        sizes = {name: write_model(root / "org" / name, *MODELS[name]) for name in MODELS}
        with ModelServer(root).running() as cdn, ModelServer(root, cdn=cdn).running() as hub:
            cdn.latency_s = hub.latency_s = arguments.latency_ms / 1000
            for name, size_bytes in sizes.items():
                one_model(apr, hub, name, size_bytes, arguments.rounds)
            fleet(apr, hub, arguments.fleet, arguments.rounds)


def one_model(apr: list[str], hub: ModelServer, name: str, size_bytes: int, rounds: int) -> None:
    cost: dict[str, int] = {}

    def ask() -> float:
        done = run_process([*apr, f"hf://org/{name}"], HF_ENDPOINT=hub.url)
        assert done.exit_code == 0, done.stdout + done.stderr
        cost.update(last_json(done.stdout)["remote"])  # type: ignore[call-overload]
        return done.wall_s

    figures = in_turn({name: ask}, rounds)[name]
    fetched = f"{cost['bytes'] / 1024:.0f} KiB in {cost['requests']} requests"
    print(f"{name}: {size_bytes / 1e9:.1f} GB in {MODELS[name][1]} files: {fetched}; {summary(figures)}")


def fleet(apr: list[str], hub: ModelServer, count: int, rounds: int) -> None:
    addresses = [f"hf://org/{name}" for name in MODELS] * (count // len(MODELS))

    def ask() -> float:
        done = run_process([*apr, *addresses], HF_ENDPOINT=hub.url)
        assert done.exit_code == 0, done.stdout[-500:] + done.stderr
        assert len(done.stdout.splitlines()) == len(addresses)
        return done.wall_s

    print(f"{len(addresses)} addresses in one command: {summary(in_turn({'fleet': ask}, rounds)['fleet'])}")


if __name__ == "__main__":
    main()
